//! Jobs that continue a version: its rows keep their bits until they are trained, new labels follow, and what does not fit is refused.

use frameshift::metadata::ExampleRecord;
use frameshift::spec::{AdapterConfig, Head, HyperParameters, JobState, Selection, Split};

use super::bed::{ADAPTERS, Bed, fade, hyper, messages};
use super::tenant;

/// A continuation whose steps are too small to change a weight.
fn still(parent: u32) -> HyperParameters {
    HyperParameters {
        learning_rate: Some(1e-300),
        parent: Some(parent),
        selection: Some(Selection {
            eval_every: Some(0),
            validation_share: Some(0.0),
            ..Selection::default()
        }),
        ..hyper(1, 9)
    }
}

/// The data set `more`: clips that become brighter, and of one new label, but none that become darker.
async fn more(bed: &Bed) -> frameshift::ids::DatasetId {
    let owner = tenant("owner");
    let mut examples = Vec::new();
    for (i, label) in ["brighter", "at once", "brighter", "at once"]
        .into_iter()
        .enumerate()
    {
        let bytes = fade(500 + i as u64, i % 2 == 0);
        examples.push(ExampleRecord {
            video: bed.upload(&owner, &format!("more-{i}"), &bytes).await,
            labels: label.into(),
            split: Split::Train,
        });
    }
    bed.dataset(&owner, "more", examples).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_is_continued_with_its_own_bits_and_new_labels_after_its_own() {
    let directory = tempfile::tempdir().expect("a directory");
    let bed = Bed::open(directory.path()).await;
    let owner = tenant("owner");
    let (task, dataset) = bed.fades(&owner, 8, 0).await;
    let runners = bed.run();
    let train = async |dataset, hyper| {
        let job = runners.submit(&owner, &task, dataset, hyper).await;
        let (job, events) = runners.end(&owner, job).await;
        assert_eq!(job.state, JobState::Succeeded, "{:?}", job.message);
        (job, events)
    };
    let (first, _) = train(&dataset, hyper(4, 5)).await;
    // The same labels: the same weights.
    let (same, _) = train(&dataset, still(1)).await;
    let weights = bed.weights(&first).await;
    assert!(bed.weights(&same).await == weights);
    assert_eq!(bed.manifest(&same).await.parent, Some(1));
    assert_eq!(bed.manifest(&first).await.parent, None);
    // Trained, they change, and another seed changes them otherwise only by the order of the clips.
    let on = HyperParameters {
        learning_rate: Some(1e-2),
        ..still(1)
    };
    let (on, _) = train(&dataset, on).await;
    assert!(bed.weights(&on).await != weights);

    let dataset = more(&bed).await;
    let (grown, events) = train(&dataset, still(1)).await;
    let manifest = bed.manifest(&grown).await;
    assert_eq!(
        manifest.labels.as_slice(),
        ["brighter", "darker", "at once"]
    );
    let told = messages(&events).join("\n");
    assert!(
        told.contains("training continues version 1; labels that it does not have get new rows of the head: \"at once\""),
        "{told}"
    );
    assert!(
        told.contains("have no training clips, so that training may unlearn them: \"darker\""),
        "{told}"
    );
    let mut now = bed.weights(&grown).await;
    let (mut rows, old) = (now.remove("fc.weight").unwrap(), &weights["fc.weight"]);
    let added = rows.split_off(old.len());
    assert!(rows == *old && added.len() == old.len() / 2);
    assert!(added.iter().any(|byte| *byte != 0));
    let bias = now.remove("fc.bias").expect("a bias");
    assert!(bias[..8] == weights["fc.bias"][..] && bias[8..] == [0; 4]);
    assert!(now.iter().all(|(name, own)| weights[name] == *own));
    // It does not serve by itself, since its labels are others.
    assert_eq!(grown.reason.as_deref(), Some("LABELS_CHANGED"));
    runners.drain().await;
    bed.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_continuation_that_was_interrupted_gives_the_same_bits() {
    let directory = tempfile::tempdir().expect("a directory");
    let bed = Bed::open(directory.path()).await;
    let owner = tenant("owner");
    let (task, dataset) = bed.fades(&owner, 8, 0).await;
    let runners = bed.run();
    let job = runners.submit(&owner, &task, &dataset, hyper(2, 5)).await;
    runners.end(&owner, job).await;
    let on = || HyperParameters {
        learning_rate: Some(1e-2),
        epochs: Some(40),
        ..still(1)
    };
    let whole = runners.submit(&owner, &task, &dataset, on()).await;
    let (whole, _) = runners.end(&owner, whole).await;
    let job = runners.submit(&owner, &task, &dataset, on()).await;
    runners.steps(&owner, job, 7).await;
    runners.drain().await;
    let runners = bed.run();
    let (job, _) = runners.end(&owner, job).await;
    assert_eq!(job.state, JobState::Succeeded, "{:?}", job.message);
    assert!(job.attempts > 1);
    assert!(bed.weights(&job).await == bed.weights(&whole).await);
    runners.drain().await;
    bed.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_continued_is_refused_in_words() {
    let directory = tempfile::tempdir().expect("a directory");
    let bed = Bed::open(directory.path()).await;
    let owner = tenant("owner");
    let (task, dataset) = bed.fades(&owner, 8, 4).await;
    let runners = bed.run();
    let refused = async |task, parent| {
        let submitted = still(parent);
        let handle = &runners.handle;
        let submit = handle.submit(&owner, task, &dataset, submitted, None);
        submit.await.expect_err("refused").to_string()
    };
    assert_eq!(
        refused(&task, 0).await,
        "parent: versions are numbered from 1, got 0"
    );
    let missing = refused(&task, 1).await;
    assert!(missing.contains("fades/versions/1"), "{missing}");
    // A version whose job chose a head alone is not continued with adapters.
    let auto = bed.task_of(&owner, "auto", (ADAPTERS, true)).await;
    let cannot_learn = HyperParameters {
        learning_rate: Some(1e-9),
        ..hyper(3, 5)
    };
    let job = runners.submit(&owner, &auto, &dataset, cannot_learn).await;
    let (job, _) = runners.end(&owner, job).await;
    let shape = bed.shape(&job).await;
    assert!(!shape.has_sites() && shape.head != Head::Mean, "{shape}");
    assert_ne!(shape, AdapterConfig::LINEAR_PROBE);
    let other = refused(&auto, 1).await;
    let expected = format!("parent: version 1 has {shape}, the task's jobs train {ADAPTERS}");
    assert!(other.starts_with(&expected), "{other}");
    runners.drain().await;
    bed.close().await;
}
