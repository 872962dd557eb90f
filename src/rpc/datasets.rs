//! DatasetService: named lists of (video, label, split).

use tonic::{Request, Response, Status};

use super::Api;
use super::convert::{findings, names, records, spec};
use crate::ids::DatasetId;
use crate::metadata::NewDataset;
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
        let new = NewDataset {
            display_name: &create.display_name,
            label_kind: spec::label_kind(create.label_kind, "label_kind")?,
        };
        let library = &parts.library;
        let dataset = library.create_dataset(&tenant, &id, new, request).await?;
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
        let (parts, tenant, list, listing) = self.list(request)?;
        let id = names::dataset(&list.name, "name")?;
        let library = &parts.library;
        let examples = library.list_examples(&tenant, &id, listing.page());
        let (examples, next_page_token) = listing.show(examples.await?, records::of_example);
        Ok(Response::new(v1::ListExamplesResponse {
            examples,
            next_page_token,
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
        let (parts, tenant, list, listing) = self.list(request)?;
        let id = names::dataset(&list.name, "name")?;
        let library = &parts.library;
        let counts = library.list_label_counts(&tenant, &id, listing.page());
        let (counts, next_page_token) = listing.show(counts.await?, records::of_label_count);
        Ok(Response::new(v1::ListLabelCountsResponse {
            counts,
            next_page_token,
        }))
    }

    async fn list_datasets(
        &self,
        request: Request<v1::ListDatasetsRequest>,
    ) -> Result<Response<v1::ListDatasetsResponse>, Status> {
        let (parts, tenant, _, listing) = self.list(request)?;
        let datasets = parts.library.list_datasets(&tenant, listing.page());
        let (datasets, next_page_token) = listing.show(datasets.await?, records::of_dataset);
        Ok(Response::new(v1::ListDatasetsResponse {
            datasets,
            next_page_token,
        }))
    }

    async fn check_dataset(
        &self,
        request: Request<v1::CheckDatasetRequest>,
    ) -> Result<Response<v1::CheckDatasetResponse>, Status> {
        let (parts, tenant, check) = self.enter(request)?;
        let (id, version) = names::dataset_at(&check.name, "name")?;
        let library = &parts.library;
        let snapshot = library.snapshot_at(&tenant, &id, version).await?;
        let sketches = parts.jobs.sketches();
        let checked = library.check(&tenant, snapshot.digest, sketches).await?;
        let answer = findings::of_findings(checked, snapshot.digest);
        Ok(Response::new(answer))
    }

    async fn create_dataset_version(
        &self,
        request: Request<v1::CreateDatasetVersionRequest>,
    ) -> Result<Response<v1::DatasetVersion>, Status> {
        let (parts, tenant, create) = self.enter(request)?;
        let id = names::dataset(&create.name, "name")?;
        let library = &parts.library;
        let version = library.create_version(&tenant, &id, &create.note).await?;
        Ok(Response::new(records::of_dataset_version(version)))
    }

    async fn list_dataset_versions(
        &self,
        request: Request<v1::ListDatasetVersionsRequest>,
    ) -> Result<Response<v1::ListDatasetVersionsResponse>, Status> {
        let (parts, tenant, list, listing) = self.list(request)?;
        let id = names::dataset(&list.name, "name")?;
        let library = &parts.library;
        let found = library.list_versions(&tenant, &id, listing.page()).await?;
        let (versions, next_page_token) = listing.show(found, records::of_dataset_version);
        Ok(Response::new(v1::ListDatasetVersionsResponse {
            versions,
            next_page_token,
        }))
    }

    async fn delete_dataset_version(
        &self,
        request: Request<v1::DeleteDatasetVersionRequest>,
    ) -> Result<Response<v1::DeleteDatasetVersionResponse>, Status> {
        let (parts, tenant, delete) = self.enter(request)?;
        let (id, number) = names::dataset_version(&delete.name, "name")?;
        parts.library.delete_version(&tenant, &id, number).await?;
        Ok(Response::new(v1::DeleteDatasetVersionResponse {}))
    }

    async fn list_dataset_changes(
        &self,
        request: Request<v1::ListDatasetChangesRequest>,
    ) -> Result<Response<v1::ListDatasetChangesResponse>, Status> {
        let (parts, tenant, list, listing) = self.list(request)?;
        let (to, version) = names::dataset_at(&list.to, "to")?;
        let library = &parts.library;
        let first = match list.from.starts_with("jobs/") {
            true => {
                let job = names::job(&list.from, "from")?;
                library.snapshot_of_job(&tenant, job).await?
            }
            false => {
                let (from, number) = names::dataset_version(&list.from, "from")?;
                let from = library.snapshot_at(&tenant, &from, Some(number)).await?;
                from.digest
            }
        };
        let second = library.snapshot_at(&tenant, &to, version).await?;
        let digests = [first, second.digest];
        let found = library
            .differences(&tenant, digests, listing.page())
            .await?;
        let (changes, next_page_token) = listing.show(found, records::of_difference);
        Ok(Response::new(v1::ListDatasetChangesResponse {
            changes,
            next_page_token,
        }))
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
