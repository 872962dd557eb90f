//! Uploads, videos, data sets and tasks.

mod datasets;
#[cfg(debug_assertions)]
mod swaps;
mod tasks;

use frameshift::ids::AdapterVersion;
use frameshift::metadata::{
    BlobName, EndedPart, Error, Kind, NewVideo, PageRequest, PartRecord, Plan, Proof, Share,
    TaskUpdate,
};
use frameshift::spec::Split;

use super::contract;
use super::fixture::*;

fn part(number: u32, offset: u64, size: u64) -> PartRecord {
    PartRecord {
        number,
        offset,
        size,
    }
}

contract! {
    async fn parts_follow_one_another_and_the_offset_is_their_sum(store: Store) {
        let a = tenant("a");
        let upload = store.create_upload(&a, "clip.mp4", None, &limits()).await.expect("created");
        let first = store.begin_part(&a, upload.id, 0, 0, &limits()).await.expect("a number");
        assert_eq!(store.commit_part(&a, upload.id, part(first, 0, 5), &limits()).await.expect("committed"), 5);
        assert!(matches!(
            store.begin_part(&a, upload.id, 4, 0, &limits()).await,
            Err(Error::OffsetMismatch { committed: 5, offset: 4, .. })
        ));
        let second = store.begin_part(&a, upload.id, 5, 0, &limits()).await.expect("a number");
        let rival = store.begin_part(&a, upload.id, 5, 0, &limits()).await.expect("a number");
        assert!(first != second && second != rival, "writers never share a number");
        assert_eq!(store.commit_part(&a, upload.id, part(rival, 5, 2), &limits()).await.expect("committed"), 7);
        assert!(matches!(
            store.commit_part(&a, upload.id, part(second, 5, 2), &limits()).await,
            Err(Error::OffsetMismatch { committed: 7, .. })
        ));
        assert_eq!(store.get_upload(&a, upload.id).await.expect("found").committed_bytes, 7);
        assert_eq!(
            store.list_parts(&a, upload.id).await.expect("parts"),
            [part(first, 0, 5), part(rival, 5, 2)]
        );
    }

    async fn an_upload_finishes_once(store: Store) {
        let a = tenant("a");
        let upload = store.create_upload(&a, "clip.mp4", None, &limits()).await.expect("created");
        let number = store.begin_part(&a, upload.id, 0, 0, &limits()).await.expect("a number");
        store.commit_part(&a, upload.id, part(number, 0, 5), &limits()).await.expect("committed");
        assert!(matches!(
            store.finish_upload(&a, upload.id, new_video(4)).await,
            Err(Error::OffsetMismatch { .. })
        ));
        let video = store.finish_upload(&a, upload.id, new_video(5)).await.expect("finished");
        assert_eq!(video.display_name, "clip.mp4");
        let again = store.finish_upload(&a, upload.id, new_video(5)).await.expect("finished");
        assert_eq!(again, video);
        let found = store.get_upload(&a, upload.id).await.expect("found");
        assert_eq!((found.committed_bytes, found.video), (5, Some(video)));
        assert!(store.list_parts(&a, upload.id).await.expect("parts").is_empty());
        assert!(matches!(
            store.begin_part(&a, upload.id, 5, 0, &limits()).await,
            Err(Error::UploadFinished { .. })
        ));
        assert!(matches!(
            store.abandon_upload(&a, upload.id).await,
            Err(Error::UploadFinished { .. })
        ));
    }

    async fn an_abandoned_upload_is_gone(store: Store) {
        let a = tenant("a");
        let upload = store.create_upload(&a, "", None, &limits()).await.expect("created");
        let number = store.begin_part(&a, upload.id, 0, 0, &limits()).await.expect("a number");
        store.commit_part(&a, upload.id, part(number, 0, 5), &limits()).await.expect("committed");
        assert!(is_named(store, &a, BlobName::Part(upload.id, number)).await);
        let parts = store.abandon_upload(&a, upload.id).await.expect("abandoned");
        assert_eq!(parts, [part(number, 0, 5)]);
        assert!(
            is_named(store, &a, BlobName::Part(upload.id, number)).await,
            "until it is said to be gone"
        );
        let ended = EndedPart { tenant: a.clone(), upload: upload.id, number };
        assert_eq!(store.ended_parts().await.expect("asked"), std::slice::from_ref(&ended));
        store.forget_parts(&[ended]).await.expect("forgotten");
        assert!(!is_named(store, &a, BlobName::Part(upload.id, number)).await);
        assert!(store.abandon_upload(&a, upload.id).await.expect("abandoned already").is_empty());
        assert!(matches!(
            store.get_upload(&a, upload.id).await,
            Err(Error::NotFound { kind: Kind::Upload, .. })
        ));
    }

    async fn a_create_with_the_same_request_answers_the_same(store: Store) {
        let a = tenant("a");
        let id = request();
        let limits = limits();
        let one = store.create_upload(&a, "x", id, &limits).await.expect("created");
        assert_eq!(store.create_upload(&a, "x", id, &limits).await.expect("answered"), one);
        let video = new_video(1);
        let again = NewVideo { id: new_video(1).id, ..video.clone() };
        let sha256 = video.sha256;
        let one = store.record_video(&a, "x", video, id).await.expect("created");
        assert_eq!(store.record_video(&a, "x", again, id).await.expect("answered"), one);
        let found = store.find_uploaded(&a, "x", sha256, id.expect("an id")).await;
        assert_eq!(found.expect("asked"), Some(one));
        let one = store.create_dataset(&a, &dataset_id("d"), "x".into(), id).await.expect("created");
        assert_eq!(store.create_dataset(&a, &dataset_id("d"), "x".into(), id).await.expect("answered"), one);
        let one = store.create_task(&a, task("t"), id).await.expect("created");
        assert_eq!(store.create_task(&a, task("t"), id).await.expect("answered"), one);
        let one = store.submit_job(&a, job("t", "d"), id).await.expect("created");
        assert_eq!(store.submit_job(&a, job("t", "d"), id).await.expect("answered"), one);
        assert_eq!(store.list_jobs(&a, &PageRequest::first()).await.expect("listed").items, [one]);
        assert!(matches!(
            store.create_task(&a, task("t"), request()).await,
            Err(Error::AlreadyExists { kind: Kind::Task, .. })
        ));
        assert!(matches!(
            store.create_dataset(&a, &dataset_id("d"), "".into(), None).await,
            Err(Error::AlreadyExists { kind: Kind::Dataset, .. })
        ));
    }

    async fn a_request_that_asks_for_something_else_is_refused(store: Store) {
        fn reused<T: std::fmt::Debug>(result: frameshift::metadata::Result<T>, by: &str) {
            assert!(
                matches!(&result, Err(Error::RequestReused { method, .. }) if *method == by),
                "{result:?}"
            );
        }
        let (a, id, limits) = (tenant("a"), request(), limits());
        let video = new_video(1);
        let sha256 = video.sha256;
        store.create_upload(&a, "x", id, &limits).await.expect("created");
        store.record_video(&a, "x", video, id).await.expect("created");
        store.create_dataset(&a, &dataset_id("d"), "x".into(), id).await.expect("created");
        store.create_task(&a, task("t"), id).await.expect("created");
        store.submit_job(&a, job("t", "d"), id).await.expect("created");

        reused(store.create_upload(&a, "y", id, &limits).await, "CreateUpload");
        reused(store.record_video(&a, "x", new_video(1), id).await, "UploadVideo");
        let key = id.expect("an id");
        reused(store.find_uploaded(&a, "y", sha256, key).await, "UploadVideo");
        reused(store.create_dataset(&a, &dataset_id("e"), "x".into(), id).await, "CreateDataset");
        reused(store.create_dataset(&a, &dataset_id("d"), "y".into(), id).await, "CreateDataset");
        reused(store.create_task(&a, task("u"), id).await, "CreateTask");
        let mut wider = task("t");
        wider.adapter.adapter_width += 1;
        reused(store.create_task(&a, wider, id).await, "CreateTask");
        let mut longer = job("t", "d");
        longer.hyper_parameters.epochs = Some(50);
        reused(store.submit_job(&a, longer, id).await, "SubmitJob");
        assert_eq!(store.list_jobs(&a, &PageRequest::first()).await.expect("listed").items.len(), 1);
        assert_eq!(store.list_videos(&a, &PageRequest::first()).await.expect("listed").items.len(), 1);
    }

    async fn pages_cover_a_listing_once_and_in_order(store: Store) {
        let a = tenant("a");
        let mut expected = Vec::new();
        for _ in 0..5 {
            expected.push(video(store, &a).await);
        }
        let mut found = Vec::new();
        let mut token = String::new();
        loop {
            let request = PageRequest::new(2, &token).expect("valid");
            let page = store.list_videos(&a, &request).await.expect("listed");
            assert!((1..=2).contains(&page.items.len()) && found.len() < 5, "{page:?}");
            found.extend(page.items);
            token = page.next.token().to_owned();
            if token.is_empty() {
                break;
            }
        }
        assert_eq!(found, expected);
        let page = store.list_videos(&a, &PageRequest::new(2, "").expect("valid")).await.expect("listed");
        let foreign = PageRequest::new(2, page.next.token()).expect("valid");
        assert!(matches!(store.list_jobs(&a, &foreign).await, Err(Error::PageToken)));
    }

    async fn a_video_in_a_data_set_goes_only_by_force(store: Store) {
        let a = tenant("a");
        let videos = trainable(store, &a, "t").await;
        assert!(matches!(
            store.delete_video(&a, videos[0].id, false).await,
            Err(Error::InUse { user_kind: Kind::Dataset, .. })
        ));
        store.delete_video(&a, videos[0].id, true).await.expect("deleted");
        assert!(matches!(
            store.get_video(&a, videos[0].id).await,
            Err(Error::NotFound { kind: Kind::Video, .. })
        ));
        assert!(!is_named(store, &a, BlobName::Video(videos[0].id)).await);
        assert!(is_named(store, &a, BlobName::Video(videos[1].id)).await);
        let dataset = store.get_dataset(&a, &dataset_id("t")).await.expect("found");
        assert_eq!(dataset.examples, 1);
        let listed = store.list_videos(&a, &PageRequest::first()).await.expect("listed");
        assert_eq!(listed.items, videos[1..]);
        assert!(matches!(
            store.delete_video(&a, videos[0].id, true).await,
            Err(Error::NotFound { .. })
        ));
    }

    async fn a_video_of_an_unfinished_job_goes_only_by_force(store: Store) {
        let a = tenant("a");
        let videos = trainable(store, &a, "t").await;
        let job = submit(store, &a, "t").await;
        let named: Vec<_> = videos.iter().map(|video| video.id).collect();
        store.remove_examples(&a, &dataset_id("t"), &named).await.expect("removed");
        assert!(matches!(
            store.delete_video(&a, named[0], false).await,
            Err(Error::InUse { user_kind: Kind::Job, .. })
        ));
        store.cancel_job(&a, job.id).await.expect("cancelled");
        store.delete_video(&a, named[0], false).await.expect("deleted");
    }

    async fn what_an_unfinished_job_needs_is_not_deleted(store: Store) {
        let a = tenant("a");
        trainable(store, &a, "t").await;
        submit(store, &a, "t").await;
        assert!(matches!(
            store.delete_dataset(&a, &dataset_id("t")).await,
            Err(Error::InUse { kind: Kind::Dataset, user_kind: Kind::Job, .. })
        ));
        assert!(matches!(
            store.delete_task(&a, &task_id("t"), None).await,
            Err(Error::InUse { kind: Kind::Task, user_kind: Kind::Job, .. })
        ));
        let claim = claim(store).await;
        publish(store, &claim).await;
        store.delete_dataset(&a, &dataset_id("t")).await.expect("deleted");
        let versions = store.delete_task(&a, &task_id("t"), None).await.expect("deleted");
        assert_eq!(versions.len(), 1);
    }
}

fn job(task: &str, dataset: &str) -> frameshift::metadata::NewJob {
    frameshift::metadata::NewJob {
        dataset: dataset_id(dataset),
        ..new_job(task)
    }
}
