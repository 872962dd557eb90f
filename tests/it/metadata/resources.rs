//! Uploads, videos, data sets and tasks.

use frameshift::ids::AdapterVersion;
use frameshift::metadata::{
    BlobName, EndedPart, Error, Kind, NewVideo, PageRequest, PartRecord, Plan, Proof, Share,
    TaskRecord, TaskUpdate,
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
        let first = store.begin_part(&a, upload.id, 0, &limits()).await.expect("a number");
        assert_eq!(store.commit_part(&a, upload.id, part(first, 0, 5), &limits()).await.expect("committed"), 5);
        assert!(matches!(
            store.begin_part(&a, upload.id, 4, &limits()).await,
            Err(Error::OffsetMismatch { committed: 5, offset: 4, .. })
        ));
        let second = store.begin_part(&a, upload.id, 5, &limits()).await.expect("a number");
        let rival = store.begin_part(&a, upload.id, 5, &limits()).await.expect("a number");
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
        let number = store.begin_part(&a, upload.id, 0, &limits()).await.expect("a number");
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
            store.begin_part(&a, upload.id, 5, &limits()).await,
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
        let number = store.begin_part(&a, upload.id, 0, &limits()).await.expect("a number");
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
        let one = store.create_dataset(&a, &dataset_id("d"), "x", id).await.expect("created");
        assert_eq!(store.create_dataset(&a, &dataset_id("d"), "x", id).await.expect("answered"), one);
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
            store.create_dataset(&a, &dataset_id("d"), "", None).await,
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
        store.create_dataset(&a, &dataset_id("d"), "x", id).await.expect("created");
        store.create_task(&a, task("t"), id).await.expect("created");
        store.submit_job(&a, job("t", "d"), id).await.expect("created");

        reused(store.create_upload(&a, "y", id, &limits).await, "CreateUpload");
        reused(store.record_video(&a, "x", new_video(1), id).await, "UploadVideo");
        let key = id.expect("an id");
        reused(store.find_uploaded(&a, "y", sha256, key).await, "UploadVideo");
        reused(store.create_dataset(&a, &dataset_id("e"), "x", id).await, "CreateDataset");
        reused(store.create_dataset(&a, &dataset_id("d"), "y", id).await, "CreateDataset");
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
            token = page.next;
            if token.is_empty() {
                break;
            }
        }
        assert_eq!(found, expected);
        let page = store.list_videos(&a, &PageRequest::new(2, "").expect("valid")).await.expect("listed");
        let foreign = PageRequest::new(2, &page.next).expect("valid");
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

    async fn examples_are_added_all_or_none(store: Store) {
        let a = tenant("a");
        let videos = trainable(store, &a, "t").await;
        let id = dataset_id("t");
        let (mine, missing) = (video(store, &a).await.id, new_video(1).id);
        let examples = [example(mine, "up", Split::Test), example(missing, "up", Split::Test)];
        match store.add_examples(&a, &id, &examples).await {
            Err(Error::VideosNotFound { videos }) => assert_eq!(videos, [missing]),
            other => panic!("{other:?}"),
        }
        assert_eq!(store.get_dataset(&a, &id).await.expect("found").examples, 2);
        let changed = [example(videos[0].id, "up", Split::Test), example(mine, "up", Split::Train)];
        let dataset = store.add_examples(&a, &id, &changed).await.expect("added");
        let counts: Vec<_> = dataset
            .counts
            .iter()
            .map(|count| (count.label.as_str(), count.split, count.examples))
            .collect();
        assert_eq!(
            counts,
            [
                ("right", Split::Validation, 1),
                ("up", Split::Train, 1),
                ("up", Split::Test, 1)
            ]
        );
        assert_eq!(store.list_datasets(&a, &PageRequest::first()).await.expect("listed").items, [dataset]);
        let examples = store.list_examples(&a, &id, &PageRequest::first()).await.expect("listed").items;
        assert!(examples.is_sorted_by_key(|example| example.video) && examples.len() == 3);
    }

    async fn labels_are_counted_as_the_examples_say(store: Store) {
        let a = tenant("a");
        let id = dataset_id("d");
        store.create_dataset(&a, &id, "", None).await.expect("created");
        let mut videos = Vec::new();
        for _ in 0..7 {
            videos.push(video(store, &a).await.id);
        }
        let label = |n: usize| format!("label {n}");
        let splits = [Split::Train, Split::Validation, Split::Test];
        let mut expected = std::collections::BTreeMap::new();
        let mut stream = frameshift::rng::Stream::new(1, "labels");
        let mut draw = |below: usize| stream.below(below as u64) as usize;
        for round in 0..60 {
            let video = videos[draw(videos.len())];
            let dataset = if round % 4 == 3 {
                expected.remove(&video);
                store.remove_examples(&a, &id, &[video]).await.expect("removed")
            } else {
                let (label, split) = (label(draw(4)), splits[draw(3)]);
                let examples = [example(video, &label, split)];
                expected.insert(video, (label, split));
                store.add_examples(&a, &id, &examples).await.expect("added")
            };
            let mut counts = std::collections::BTreeMap::new();
            for of in expected.values() {
                *counts.entry(of.clone()).or_insert(0) += 1;
            }
            let found: Vec<_> = dataset
                .counts
                .iter()
                .map(|count| ((count.label.clone(), count.split), count.examples))
                .collect();
            assert_eq!(found, counts.iter().map(|(of, n)| (of.clone(), *n)).collect::<Vec<_>>());
            assert_eq!(dataset.examples, expected.len() as u64);
            let labels: std::collections::BTreeSet<_> = counts.keys().map(|(label, _)| label).collect();
            assert_eq!(dataset.labels, labels.len() as u64);
        }
        let (gone, (_, split)) = expected.iter().next().expect("an example");
        let before = store.get_dataset(&a, &id).await.expect("found");
        let of = |dataset: &frameshift::metadata::DatasetRecord| -> u64 {
            dataset.counts.iter().filter(|c| c.split == *split).map(|c| c.examples).sum()
        };
        store.delete_video(&a, *gone, true).await.expect("deleted");
        let after = store.get_dataset(&a, &id).await.expect("found");
        assert_eq!(of(&after), of(&before) - 1);
        assert_eq!(after.examples, before.examples - 1);
    }

    async fn labels_without_end_are_counted_page_by_page(store: Store) {
        let a = tenant("a");
        let id = dataset_id("many");
        store.create_dataset(&a, &id, "", None).await.expect("created");
        let name = |n: usize| format!("{n:05}{}", "x".repeat(250));
        for batch in 0..3 {
            let mut examples = Vec::new();
            for n in 0..600 {
                let video = video(store, &a).await.id;
                examples.push(example(video, &name(batch * 600 + n), Split::Test));
            }
            let dataset = store.add_examples(&a, &id, &examples).await.expect("added");
            let labels = (batch + 1) * 600;
            assert_eq!((dataset.labels, dataset.examples), (labels as u64, labels as u64));
            assert_eq!(dataset.counts.len(), labels.min(1000), "an answer stays small");
        }
        let listed = store.list_datasets(&a, &PageRequest::first()).await.expect("listed");
        assert_eq!(listed.items[0].counts.len(), 1000);
        let (mut found, mut token) = (Vec::new(), String::new());
        for _ in 0..100 {
            let page = PageRequest::new(700, &token).expect("valid");
            let page = store.list_label_counts(&a, &id, &page).await.expect("listed");
            found.extend(page.items.into_iter().map(|count| count.label));
            token = page.next;
            if token.is_empty() {
                break;
            }
        }
        assert_eq!(found, (0..1800).map(name).collect::<Vec<_>>());
    }

    async fn a_snapshot_stays_what_it_was(store: Store) {
        let a = tenant("a");
        let videos = trainable(store, &a, "t").await;
        let id = dataset_id("t");
        let before = store.snapshot_dataset(&a, &id).await.expect("taken");
        let whole = examples_of(store, &a, before.digest).await.expect("found");
        assert_eq!((whole.len(), before.examples), (2, 2));
        assert_eq!(store.snapshot_dataset(&a, &id).await.expect("taken"), before);
        store.remove_examples(&a, &id, &[videos[0].id]).await.expect("removed");
        let after = store.snapshot_dataset(&a, &id).await.expect("taken");
        assert_ne!(after.digest, before.digest);
        assert_eq!(after.examples, 1);
        assert_eq!(examples_of(store, &a, before.digest).await.expect("found"), whole);
        store.delete_dataset(&a, &id).await.expect("deleted");
        assert_eq!(examples_of(store, &a, before.digest).await.expect("found"), whole);
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

    async fn a_stale_etag_changes_nothing(store: Store) {
        let a = tenant("a");
        trainable(store, &a, "t").await;
        let id = task_id("t");
        let old = store.get_task(&a, &id).await.expect("found");
        let update = TaskUpdate {
            display_name: Some("new".into()),
            auto_serve: None,
        };
        let new = store.update_task(&a, &id, update.clone(), Some(&old.etag)).await.expect("updated");
        assert_eq!((new.display_name.as_str(), new.auto_serve), ("new", true));
        assert_ne!(new.etag, old.etag);
        let stale = Some(old.etag.as_str());
        assert!(matches!(
            store.update_task(&a, &id, update, stale).await,
            Err(Error::EtagMismatch { .. })
        ));
        assert!(matches!(
            store.delete_task(&a, &id, stale).await,
            Err(Error::EtagMismatch { .. })
        ));
        assert_eq!(store.get_task(&a, &id).await.expect("found"), new);
        store.delete_task(&a, &id, Some(&new.etag)).await.expect("deleted");
        let reborn = store.create_task(&a, task("t"), None).await.expect("created");
        assert_ne!(reborn.etag, old.etag);
    }

    async fn a_split_is_proved_version_by_version_and_goes_back_to_what_served_before(store: Store) {
        let a = tenant("a");
        trainable(store, &a, "t").await;
        let id = task_id("t");
        let mut versions = Vec::new();
        for _ in 0..3 {
            submit(store, &a, "t").await;
            versions.push(publish(store, &claim(store).await).await.version.version);
        }
        let [one, two, three] = versions[..] else { panic!("three versions") };
        let task = store.get_task(&a, &id).await.expect("found");
        assert!(matches!(
            store.roll_back(&a, &id, &task.etag).await,
            Err(Error::NothingBefore { .. })
        ));
        let task = store.set_desired(&a, &id, &one.into(), &task.etag).await.expect("set");
        assert!(store.move_serving(&a, &id, one).await.expect("moved"));
        assert_eq!(task.previous, None, "nothing served before");

        let plan = Plan {
            main: one,
            members: vec![Share::new(one, 900), Share::new(two, 100)],
            shadows: vec![Share::new(three, 1000)],
        };
        assert!(matches!(
            store.set_desired(&a, &id, &plan, &task.etag.replace('-', "+")).await,
            Err(Error::EtagMismatch { .. })
        ));
        let missing = Plan {
            shadows: vec![Share::new(AdapterVersion::new(9).expect("not 0"), 1000)],
            ..plan.clone()
        };
        assert!(matches!(
            store.set_desired(&a, &id, &missing, &task.etag).await,
            Err(Error::NotFound { kind: Kind::Version, .. })
        ));
        let task = store.set_desired(&a, &id, &plan, &task.etag).await.expect("set");
        assert_eq!((task.split.as_ref(), task.previous.as_ref()), (Some(&plan), Some(&one.into())));
        assert_eq!(store.pending_tasks().await.expect("asked"), std::slice::from_ref(&task));
        assert!(store.note_member(&a, &id, two, None).await.expect("noted"));
        assert!(!store.note_member(&a, &id, two, None).await.expect("asked"), "no news");
        assert!(!store.note_member(&a, &id, one, None).await.expect("asked"), "the main version");
        assert!(store.note_member(&a, &id, three, Some("damaged")).await.expect("noted"));
        assert!(store.pending_tasks().await.expect("asked").is_empty());
        let proofs = |task: &TaskRecord| -> Vec<Proof> {
            let split = task.split.iter().flat_map(Plan::others);
            split.map(|own| own.proof.clone()).collect()
        };
        let noted = store.get_task(&a, &id).await.expect("found");
        let why = "damaged".to_owned();
        assert_eq!(proofs(&noted), [Proof::Ready, Proof::Failed { why }]);
        assert_eq!(noted.etag, task.etag, "what the engine notes is no change");

        // What was proved stays so; what failed is tried again.
        let more = Plan {
            members: vec![Share::new(one, 500), Share::new(two, 500)],
            ..plan.clone()
        };
        let task = store.set_desired(&a, &id, &more, &task.etag).await.expect("set");
        assert_eq!(proofs(&task), [Proof::Ready, Proof::Pending]);
        assert_eq!(task.previous.as_ref(), Some(&plan));

        // A version of a job does not end a split; the other way round, what was asked for and never served is nothing to go back to.
        submit(store, &a, "t").await;
        let published = publish(store, &claim(store).await).await;
        assert!(!published.is_desired);
        let task = store.set_desired(&a, &id, &three.into(), &task.etag).await.expect("set");
        let task = store.set_desired(&a, &id, &two.into(), &task.etag).await.expect("set");
        assert_eq!((task.split.clone(), task.serving), (None, Some(one)));
        assert_eq!(task.previous, Some(one.into()));
        assert!(store.move_serving(&a, &id, two).await.expect("moved"));
        let back = store.roll_back(&a, &id, &task.etag).await.expect("back");
        assert_eq!((back.desired, back.previous.clone()), (Some(one), Some(two.into())));
        let stale = store.roll_back(&a, &id, &task.etag).await;
        assert!(matches!(stale, Err(Error::EtagMismatch { .. })));
        assert!(store.move_serving(&a, &id, one).await.expect("moved"));
        let again = store.roll_back(&a, &id, &back.etag).await.expect("back");
        assert_eq!((again.desired, again.previous), (Some(two), Some(one.into())));
    }

    async fn serving_moves_to_the_desired_version_only(store: Store) {
        let a = tenant("a");
        trainable(store, &a, "t").await;
        let id = task_id("t");
        submit(store, &a, "t").await;
        let one = publish(store, &claim(store).await).await.version.version;
        assert!(store.move_serving(&a, &id, one).await.expect("moved"));
        submit(store, &a, "t").await;
        let two = publish(store, &claim(store).await).await.version.version;
        let task = store.get_task(&a, &id).await.expect("found");
        assert_eq!((task.serving, task.desired), (Some(one), Some(two)));
        assert_eq!(store.pending_tasks().await.expect("asked").len(), 1);
        assert!(!store.move_serving(&a, &id, one).await.expect("asked"), "not desired any more");
        assert!(store.serving_failed(&a, &id, two, "not a number").await.expect("noted"));
        let task = store.get_task(&a, &id).await.expect("found");
        assert_eq!(task.serving_error.as_deref(), Some("not a number"));
        assert_eq!(task.serving, Some(one));
        let task = store.set_desired(&a, &id, &one.into(), &task.etag).await.expect("set");
        assert_eq!((task.serving, task.desired, task.serving_error), (Some(one), Some(one), None));
        assert!(store.pending_tasks().await.expect("asked").is_empty());
        assert!(!store.serving_failed(&a, &id, two, "late").await.expect("asked"));
        assert!(matches!(
            store.set_desired(&a, &id, &two.into(), "stale").await,
            Err(Error::EtagMismatch { .. })
        ));
        let task = store.get_task(&a, &id).await.expect("found");
        let none = frameshift::ids::AdapterVersion::new(9).expect("not 0");
        assert!(matches!(
            store.set_desired(&a, &id, &none.into(), &task.etag).await,
            Err(Error::NotFound { kind: Kind::Version, .. })
        ));
    }
}

fn job(task: &str, dataset: &str) -> frameshift::metadata::NewJob {
    frameshift::metadata::NewJob {
        dataset: dataset_id(dataset),
        ..new_job(task)
    }
}
