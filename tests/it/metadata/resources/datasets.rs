//! Examples, their counts by label, and snapshots of data sets.

use frameshift::metadata::{ExampleRecord, NewDataset};
use frameshift::spec::{ExampleLabels, LabelKind};

use super::*;

contract! {
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
        store.create_dataset(&a, &id, "".into(), None).await.expect("created");
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

    async fn labels_that_do_not_exclude_one_another_are_counted_one_by_one(store: Store) {
        let a = tenant("a");
        let id = dataset_id("multi");
        let new = NewDataset { display_name: "", label_kind: LabelKind::Multi };
        let request = Some(frameshift::ids::RequestId::generate());
        let made = store.create_dataset(&a, &id, new, request).await.expect("created");
        assert_eq!(made.label_kind, LabelKind::Multi);
        assert_eq!(store.create_dataset(&a, &id, new, request).await.expect("answered"), made);
        match store.create_dataset(&a, &id, "".into(), request).await {
            Err(Error::RequestReused { differs, .. }) => assert_eq!(differs, ["label_kind"]),
            other => panic!("{other:?}"),
        }
        let videos = [video(store, &a).await.id, video(store, &a).await.id, video(store, &a).await.id];
        let of = |video, labels: &[&str]| ExampleRecord {
            video,
            labels: ExampleLabels::of(labels.iter().copied()).expect("labels"),
            split: Split::Train,
        };
        let all = [of(videos[0], &["run", "jump"]), of(videos[1], &["run"]), of(videos[2], &[])];
        let dataset = store.add_examples(&a, &id, &all).await.expect("added");
        let counts = |dataset: &frameshift::metadata::DatasetRecord| -> Vec<(String, u64)> {
            dataset.counts.iter().map(|count| (count.label.clone(), count.examples)).collect()
        };
        assert_eq!((dataset.examples, dataset.labels), (3, 2));
        assert_eq!(counts(&dataset), [("jump".into(), 1), ("run".into(), 2)]);
        let taken = store.snapshot_dataset(&a, &id).await.expect("taken");
        assert_eq!(store.snapshot_kind(&a, taken.digest).await.expect("a kind"), LabelKind::Multi);
        let mut sorted = all.to_vec();
        sorted.sort_by_key(|example| example.video);
        assert_eq!(examples_of(store, &a, taken.digest).await.expect("found"), sorted);
        // The labels of an example are replaced as a whole, and a video that goes takes its own along.
        let changed = store.add_examples(&a, &id, &[of(videos[0], &["jump", "fall"])]).await.expect("added");
        assert_eq!(counts(&changed), [("fall".into(), 1), ("jump".into(), 1), ("run".into(), 1)]);
        store.delete_video(&a, videos[0], true).await.expect("deleted");
        let left = store.get_dataset(&a, &id).await.expect("found");
        assert_eq!((left.examples, counts(&left)), (2, vec![("run".into(), 1)]));
        // Equal examples of labels that exclude one another are another snapshot.
        store.remove_examples(&a, &id, &[videos[2]]).await.expect("removed");
        let multi = store.snapshot_dataset(&a, &id).await.expect("taken").digest;
        let other = dataset_id("single");
        store.create_dataset(&a, &other, "".into(), None).await.expect("created");
        match store.add_examples(&a, &other, &all).await {
            Err(Error::LabelCount { video, labels, .. }) => assert_eq!((video, labels), (videos[0], 2)),
            other => panic!("{other:?}"),
        }
        store.add_examples(&a, &other, &[of(videos[1], &["run"])]).await.expect("added");
        let single = store.snapshot_dataset(&a, &other).await.expect("taken").digest;
        assert_ne!(single, multi);
        assert_eq!(store.snapshot_kind(&a, single).await.expect("a kind"), LabelKind::Single);
    }

    async fn labels_without_end_are_counted_page_by_page(store: Store) {
        let a = tenant("a");
        let id = dataset_id("many");
        store.create_dataset(&a, &id, "".into(), None).await.expect("created");
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
            token = page.next.token().to_owned();
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
}
