//! VideoService: uploads, records, deletion.

use tonic::{Request, Response, Status, Streaming};

use super::convert::{names, records};
use super::{Api, uploads};
use crate::proto::v1;
use crate::proto::v1::video_service_server::VideoService;

#[tonic::async_trait]
impl VideoService for Api {
    async fn upload_video(
        &self,
        request: Request<Streaming<v1::UploadVideoRequest>>,
    ) -> Result<Response<v1::Video>, Status> {
        let (parts, tenant, stream) = self.enter(request)?;
        let video = uploads::upload_video(parts, &tenant, stream).await?;
        Ok(Response::new(records::of_video(video)))
    }

    async fn create_upload(
        &self,
        request: Request<v1::CreateUploadRequest>,
    ) -> Result<Response<v1::Upload>, Status> {
        let (parts, tenant, create) = self.enter(request)?;
        let id = names::request(&create.request_id)?;
        let library = &parts.library;
        let upload = library
            .create_upload(&tenant, &create.display_name, id)
            .await?;
        Ok(Response::new(records::of_upload(upload)))
    }

    async fn write_upload(
        &self,
        request: Request<Streaming<v1::WriteUploadRequest>>,
    ) -> Result<Response<v1::Upload>, Status> {
        let (parts, tenant, stream) = self.enter(request)?;
        let upload = uploads::write_upload(parts, &tenant, stream).await?;
        Ok(Response::new(records::of_upload(upload)))
    }

    async fn get_upload(
        &self,
        request: Request<v1::GetUploadRequest>,
    ) -> Result<Response<v1::Upload>, Status> {
        let (parts, tenant, get) = self.enter(request)?;
        let id = names::upload(&get.name, "name")?;
        let upload = parts.library.get_upload(&tenant, id).await?;
        Ok(Response::new(records::of_upload(upload)))
    }

    async fn list_uploads(
        &self,
        request: Request<v1::ListUploadsRequest>,
    ) -> Result<Response<v1::ListUploadsResponse>, Status> {
        let (parts, tenant, _, listing) = self.list(request)?;
        let uploads = parts.library.list_uploads(&tenant, listing.page()).await?;
        let (uploads, next_page_token) = listing.show(uploads, records::of_upload);
        Ok(Response::new(v1::ListUploadsResponse {
            uploads,
            next_page_token,
        }))
    }

    async fn delete_upload(
        &self,
        request: Request<v1::DeleteUploadRequest>,
    ) -> Result<Response<v1::DeleteUploadResponse>, Status> {
        let (parts, tenant, delete) = self.enter(request)?;
        let id = names::upload(&delete.name, "name")?;
        parts.library.delete_upload(&tenant, id).await?;
        Ok(Response::new(v1::DeleteUploadResponse {}))
    }

    async fn get_video(
        &self,
        request: Request<v1::GetVideoRequest>,
    ) -> Result<Response<v1::Video>, Status> {
        let (parts, tenant, get) = self.enter(request)?;
        let id = names::video(&get.name, "name")?;
        let video = parts.library.get_video(&tenant, id).await?;
        Ok(Response::new(records::of_video(video)))
    }

    async fn list_videos(
        &self,
        request: Request<v1::ListVideosRequest>,
    ) -> Result<Response<v1::ListVideosResponse>, Status> {
        let (parts, tenant, _, listing) = self.list(request)?;
        let videos = parts.library.list_videos(&tenant, listing.page()).await?;
        let (videos, next_page_token) = listing.show(videos, records::of_video);
        Ok(Response::new(v1::ListVideosResponse {
            videos,
            next_page_token,
        }))
    }

    async fn delete_video(
        &self,
        request: Request<v1::DeleteVideoRequest>,
    ) -> Result<Response<v1::DeleteVideoResponse>, Status> {
        let (parts, tenant, delete) = self.enter(request)?;
        let id = names::video(&delete.name, "name")?;
        parts
            .library
            .delete_video(&tenant, id, delete.force)
            .await?;
        parts.registry.video_deleted(&tenant, id);
        Ok(Response::new(v1::DeleteVideoResponse {}))
    }
}
