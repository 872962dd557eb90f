//! DatasetService: named lists of (video, label, split).

use tonic::{Request, Response, Status};

use super::Api;
use super::convert::{findings, names, page, records};
use crate::ids::DatasetId;
use crate::proto::v1;
use crate::proto::v1::dataset_service_server::DatasetService;

#[tonic::async_trait]
impl DatasetService for Api {
    async fn create_dataset(
        &self,
        request: Request<v1::CreateDatasetRequest>,
    ) -> Result<Response<v1::Dataset>, Status> {
        let (parts, tenant, create) = self.enter(request)?;
        let id: DatasetId = names::chosen(&create.dataset_id, "dataset_id")?;
        let request = names::request(&create.request_id)?;
        let library = &parts.library;
        let dataset = library
            .create_dataset(&tenant, &id, &create.display_name, request)
            .await?;
        Ok(Response::new(records::of_dataset(dataset)))
    }

    async fn add_examples(
        &self,
        request: Request<v1::AddExamplesRequest>,
    ) -> Result<Response<v1::Dataset>, Status> {
        let (parts, tenant, add) = self.enter(request)?;
        let id = names::dataset(&add.name, "name")?;
        let examples = add.examples.iter().enumerate();
        let examples: Vec<_> = examples
            .map(|(index, example)| records::example(example, index))
            .collect::<Result<_, _>>()?;
        let library = &parts.library;
        let dataset = library.add_examples(&tenant, &id, &examples).await?;
        Ok(Response::new(records::of_dataset(dataset)))
    }

    async fn remove_examples(
        &self,
        request: Request<v1::RemoveExamplesRequest>,
    ) -> Result<Response<v1::Dataset>, Status> {
        let (parts, tenant, remove) = self.enter(request)?;
        let id = names::dataset(&remove.name, "name")?;
        let videos = remove.videos.iter().enumerate();
        let videos: Vec<_> = videos
            .map(|(index, name)| names::video(name, &format!("videos[{index}]")))
            .collect::<Result<_, _>>()?;
        let library = &parts.library;
        let dataset = library.remove_examples(&tenant, &id, &videos).await?;
        Ok(Response::new(records::of_dataset(dataset)))
    }

    async fn list_examples(
        &self,
        request: Request<v1::ListExamplesRequest>,
    ) -> Result<Response<v1::ListExamplesResponse>, Status> {
        let (parts, tenant, list) = self.enter(request)?;
        let id = names::dataset(&list.name, "name")?;
        let page = page(list.page_size, &list.page_token)?;
        let examples = parts.library.list_examples(&tenant, &id, &page).await?;
        Ok(Response::new(v1::ListExamplesResponse {
            next_page_token: examples.next,
            examples: examples
                .items
                .into_iter()
                .map(records::of_example)
                .collect(),
        }))
    }

    async fn get_dataset(
        &self,
        request: Request<v1::GetDatasetRequest>,
    ) -> Result<Response<v1::Dataset>, Status> {
        let (parts, tenant, get) = self.enter(request)?;
        let id = names::dataset(&get.name, "name")?;
        let dataset = parts.library.get_dataset(&tenant, &id).await?;
        Ok(Response::new(records::of_dataset(dataset)))
    }

    async fn list_label_counts(
        &self,
        request: Request<v1::ListLabelCountsRequest>,
    ) -> Result<Response<v1::ListLabelCountsResponse>, Status> {
        let (parts, tenant, list) = self.enter(request)?;
        let id = names::dataset(&list.name, "name")?;
        let page = page(list.page_size, &list.page_token)?;
        let library = &parts.library;
        let counts = library.list_label_counts(&tenant, &id, &page).await?;
        Ok(Response::new(v1::ListLabelCountsResponse {
            next_page_token: counts.next,
            counts: counts
                .items
                .into_iter()
                .map(records::of_label_count)
                .collect(),
        }))
    }

    async fn list_datasets(
        &self,
        request: Request<v1::ListDatasetsRequest>,
    ) -> Result<Response<v1::ListDatasetsResponse>, Status> {
        let (parts, tenant, list) = self.enter(request)?;
        let page = page(list.page_size, &list.page_token)?;
        let datasets = parts.library.list_datasets(&tenant, &page).await?;
        Ok(Response::new(v1::ListDatasetsResponse {
            next_page_token: datasets.next,
            datasets: datasets
                .items
                .into_iter()
                .map(records::of_dataset)
                .collect(),
        }))
    }

    async fn check_dataset(
        &self,
        request: Request<v1::CheckDatasetRequest>,
    ) -> Result<Response<v1::CheckDatasetResponse>, Status> {
        let (parts, tenant, check) = self.enter(request)?;
        let id = names::dataset(&check.name, "name")?;
        let library = &parts.library;
        let snapshot = library.snapshot(&tenant, &id).await?;
        let (examples, found) = library.check(&tenant, snapshot.digest).await?;
        Ok(Response::new(findings::of_findings(
            examples,
            found,
            snapshot.digest,
        )))
    }

    async fn delete_dataset(
        &self,
        request: Request<v1::DeleteDatasetRequest>,
    ) -> Result<Response<v1::DeleteDatasetResponse>, Status> {
        let (parts, tenant, delete) = self.enter(request)?;
        let id = names::dataset(&delete.name, "name")?;
        parts.library.delete_dataset(&tenant, &id).await?;
        Ok(Response::new(v1::DeleteDatasetResponse {}))
    }
}
