//! No tenant meets another's records, whatever it names.

use frameshift::ids::{AdapterVersion, JobId, UploadId, VideoId};
use frameshift::metadata::{
    BlobName, Ending, Error, JobUpdate, Lease, PageRequest, PartRecord, Release, Result, TaskUpdate,
};
use frameshift::spec::{Digest, JobState, Split};

use super::contract;
use super::fixture::*;

fn absent<T: std::fmt::Debug>(result: Result<T>) {
    assert!(
        matches!(
            result,
            Err(Error::NotFound { .. } | Error::VideosNotFound { .. })
        ),
        "{result:?}"
    );
}

contract! {
    async fn every_method_answers_not_found_for_anothers_resource(store: Store) {
        let (a, b) = (tenant("a"), tenant("b"));
        let videos = trainable(store, &a, "t").await;
        let upload = store.create_upload(&a, "", None, &limits()).await.expect("created");
        submit(store, &a, "t").await;
        let published = publish(store, &claim(store).await).await;
        let job = submit(store, &a, "t").await;
        let task = store.get_task(&a, &task_id("t")).await.expect("found");
        let digest = job.dataset_digest;

        uploads_and_videos(store, &b, upload.id, videos[0].id).await;
        datasets(store, &b, videos[0].id, digest).await;
        tasks(store, &b, published.version.version, &task.etag).await;
        jobs(store, &b, job.id).await;

        let page = PageRequest::first();
        assert!(store.list_videos(&b, &page).await.expect("listed").items.is_empty());
        assert!(store.list_uploads(&b, &page).await.expect("listed").items.is_empty());
        assert!(store.list_datasets(&b, &page).await.expect("listed").items.is_empty());
        assert!(store.list_tasks(&b, &page).await.expect("listed").items.is_empty());
        assert!(store.list_jobs(&b, &page).await.expect("listed").items.is_empty());
        assert_eq!(store.get_task(&a, &task_id("t")).await.expect("found"), task);
        assert_eq!(store.get_video(&a, videos[0].id).await.expect("found"), videos[0]);
        assert_eq!(store.get_job(&a, job.id).await.expect("found"), job);
    }

    async fn a_worker_writes_for_its_own_tenant_only(store: Store) {
        let a = tenant("a");
        trainable(store, &a, "t").await;
        submit(store, &a, "t").await;
        let claim = claim(store).await;
        let foreign = Lease { tenant: tenant("b"), ..claim.lease.clone() };
        let checkpoint = super::jobs::checkpoint(1);
        let (from, to) = (JobState::Validating, JobState::Running);
        let update = JobUpdate::default();
        for result in [
            store.heartbeat(&foreign, LEASE).await.map(drop),
            store.advance_job(&foreign, from, to, update.clone()).await.map(drop),
            store.append_events(&foreign, from, &[], update).await,
            store.commit_checkpoint(&foreign, checkpoint).await.map(drop),
            store.release_job(&foreign, Release::Drained).await,
            store.end_job(&foreign, Ending::Cancelled).await.map(drop),
            store.reserve_version(&foreign).await.map(drop),
        ] {
            assert!(matches!(result, Err(Error::LeaseLost { .. })), "{result:?}");
        }
        let found = store.get_job(&a, claim.job.id).await.expect("found");
        // With the claim's own event.
        assert_eq!(found, claim.job);
    }

    async fn equal_names_and_requests_of_two_tenants_coexist(store: Store) {
        let (a, b) = (tenant("a"), tenant("b"));
        let id = request();
        let mut sha256 = Vec::new();
        for (owner, name) in [(&a, "of a"), (&b, "of b")] {
            let mut new = task("t");
            new.display_name = name.into();
            store.create_task(owner, new, id).await.expect("created");
            store.create_dataset(owner, &dataset_id("d"), name.into(), id).await.expect("created");
            store.create_upload(owner, name, id, &limits()).await.expect("created");
            let video = new_video(1);
            sha256.push(video.sha256);
            store.record_video(owner, name, video, id).await.expect("created");
        }
        for ((owner, name), sha256) in [(&a, "of a"), (&b, "of b")].into_iter().zip(sha256) {
            let task = store.get_task(owner, &task_id("t")).await.expect("found");
            assert_eq!((task.display_name.as_str(), &task.tenant), (name, owner));
            let dataset = store.get_dataset(owner, &dataset_id("d")).await.expect("found");
            assert_eq!((dataset.display_name.as_str(), &dataset.tenant), (name, owner));
            let id = id.expect("an id");
            let video = store.find_uploaded(owner, name, sha256, id).await.expect("asked");
            assert_eq!(video.expect("found").display_name, name);
        }
        store.delete_task(&a, &task_id("t"), None).await.expect("deleted");
        store.delete_dataset(&a, &dataset_id("d")).await.expect("deleted");
        store.get_task(&b, &task_id("t")).await.expect("still there");
        store.get_dataset(&b, &dataset_id("d")).await.expect("still there");
    }
}

async fn uploads_and_videos(
    store: &Store,
    b: &frameshift::ids::TenantId,
    upload: UploadId,
    video: VideoId,
) {
    let part = PartRecord {
        number: 0,
        offset: 0,
        size: 1,
    };
    absent(store.get_upload(b, upload).await);
    absent(store.begin_part(b, upload, 0, 0, &limits()).await);
    absent(store.commit_part(b, upload, part, &limits()).await);
    absent(store.list_parts(b, upload).await);
    absent(store.finish_upload(b, upload, new_video(0)).await);
    absent(store.abandon_upload(b, upload).await);
    absent(store.get_video(b, video).await);
    absent(store.delete_video(b, video, true).await);
    assert_eq!(store.get_videos(b, &[video]).await.expect("asked"), []);
    let sampling = Digest([9; 32]);
    let remembered = store.remember_decoded(b, sampling, &[video]).await;
    remembered.expect("another's video is ignored");
    let sketch = [(video, "aa".to_owned())];
    let remembered = store.remember_sketches(b, sampling, &sketch).await;
    remembered.expect("another's video is ignored");
    let known = store.sketches(b, sampling, &[video]).await;
    assert_eq!(known.expect("asked"), []);
    let unknown = store.undecoded(b, sampling, &[video]).await;
    assert_eq!(unknown.expect("asked"), [video]);
    assert!(!is_named(store, b, BlobName::Video(video)).await);
}

async fn datasets(store: &Store, b: &frameshift::ids::TenantId, video: VideoId, digest: Digest) {
    let id = dataset_id("t");
    let examples = [example(video, "left", Split::Train)];
    absent(store.get_dataset(b, &id).await);
    absent(store.add_examples(b, &id, &examples).await);
    absent(store.remove_examples(b, &id, &[video]).await);
    absent(store.list_examples(b, &id, &PageRequest::first()).await);
    absent(store.list_label_counts(b, &id, &PageRequest::first()).await);
    absent(store.delete_dataset(b, &id).await);
    absent(store.snapshot_dataset(b, &id).await);
    absent(store.snapshot_examples(b, digest, None, 10).await);
    store
        .create_dataset(b, &dataset_id("own"), "".into(), None)
        .await
        .expect("created");
    absent(store.add_examples(b, &dataset_id("own"), &examples).await);
    store
        .delete_dataset(b, &dataset_id("own"))
        .await
        .expect("deleted");
}

async fn tasks(store: &Store, b: &frameshift::ids::TenantId, version: AdapterVersion, etag: &str) {
    let id = task_id("t");
    absent(store.get_task(b, &id).await);
    absent(store.update_task(b, &id, TaskUpdate::default(), None).await);
    absent(store.delete_task(b, &id, None).await);
    absent(store.get_version(b, &id, version).await);
    absent(store.list_versions(b, &id, &PageRequest::first()).await);
    assert_eq!(store.version_range(b, &id).await.expect("asked"), None);
    absent(store.set_desired(b, &id, &version.into(), etag).await);
    absent(store.roll_back(b, &id, etag).await);
    absent(store.pin_task(b, &id, true, u64::MAX).await);
    assert!(
        !store
            .note_member(b, &id, version, None)
            .await
            .expect("asked")
    );
    assert!(!store.move_serving(b, &id, version).await.expect("asked"));
    assert!(
        !store
            .serving_failed(b, &id, version, "why")
            .await
            .expect("asked")
    );
    let blob = BlobName::Version(id, version, Digest([3; 32]));
    assert!(!is_named(store, b, blob).await);
}

async fn jobs(store: &Store, b: &frameshift::ids::TenantId, job: JobId) {
    absent(store.submit_job(b, new_job("t"), None).await);
    absent(store.get_job(b, job).await);
    absent(store.cancel_job(b, job).await);
    absent(store.list_events(b, job, 0, 10).await);
}
