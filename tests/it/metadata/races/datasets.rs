//! Races for the examples and snapshots of a data set.

use super::*;

contract! {
    async fn examples_are_counted_and_never_name_a_deleted_video(store: Store) {
        for round in 0..rounds() {
            let a = scene(store, round).await;
            let mut videos = Vec::new();
            for _ in 0..6 {
                videos.push(video(store, &a).await.id);
            }
            let (owner, own) = (a.clone(), videos.clone());
            let results = race(store, move |store, caller| {
                let (a, videos) = (owner.clone(), own.clone());
                async move {
                    let video = videos[caller % 3];
                    let set = dataset_id("t");
                    match caller % 4 {
                        0 => store.delete_video(&a, video, caller == 4).await,
                        1 => store.remove_examples(&a, &set, &videos[..4]).await.map(drop),
                        _ => {
                            let label = format!("label {}", caller % 5);
                            let mut own: Vec<_> = videos.iter().map(|video| example(*video, &label, Split::Train)).collect();
                            if caller % 2 == 0 {
                                own.reverse();
                            }
                            store.add_examples(&a, &set, &own).await.map(drop)
                        }
                    }
                }
            }).await;
            successes(&results, |error| {
                matches!(error, Error::InUse { .. } | Error::NotFound { .. } | Error::VideosNotFound { .. })
            });
            let set = store.get_dataset(&a, &dataset_id("t")).await.expect("found");
            let page = store.list_examples(&a, &dataset_id("t"), &page()).await.expect("listed");
            assert_eq!(set.examples, page.items.len() as u64);
            let counted: u64 = set.counts.iter().map(|count| count.examples).sum();
            assert_eq!(counted, set.examples);
            for example in &page.items {
                let own = set.counts.iter().find(|count| count.label == example.labels.text());
                assert!(own.is_some(), "{} is not counted", example.labels.text());
                store.get_video(&a, example.video).await.expect("the video is there");
            }
            // A snapshot is one state of the data set, and its digest names that.
            let snapshot = store.snapshot_dataset(&a, &dataset_id("t")).await.expect("taken");
            assert_eq!(examples_of(store, &a, snapshot.digest).await.expect("read"), page.items);
        }
    }

    async fn snapshots_beside_changes_hold_what_their_digest_says(store: Store) {
        for round in 0..rounds() {
            let a = scene(store, round).await;
            let mut videos = Vec::new();
            for _ in 0..8 {
                videos.push(video(store, &a).await.id);
            }
            let owner = a.clone();
            let taken = race(store, move |store, caller| {
                let (a, videos) = (owner.clone(), videos.clone());
                async move {
                    let set = dataset_id("t");
                    if caller % 2 == 0 {
                        let own = example(videos[caller / 2], "more", Split::Train);
                        store.add_examples(&a, &set, &[own]).await.expect("added");
                        return None;
                    }
                    Some(store.snapshot_dataset(&a, &set).await.expect("taken"))
                }
            }).await;
            for snapshot in taken.into_iter().flatten() {
                let examples = examples_of(store, &a, snapshot.digest).await.expect("read");
                assert_eq!(examples.len() as u64, snapshot.examples);
            }
        }
    }
}
