//! Mirroring and labels that name a side, and what a linear probe says that it cannot use.

use frameshift::jobs::Error;
use frameshift::metadata::{Event, ExampleRecord};
use frameshift::spec::{AdapterConfig, HyperParameters, JobState, Mirror, Split};

use super::bed::{ADAPTERS, Bed, fade, hyper, messages};
use super::tenant;

#[tokio::test(flavor = "multi_thread")]
async fn labels_that_name_a_side_keep_auto_from_mirroring_and_on_warns() {
    let directory = tempfile::tempdir().expect("a directory");
    let bed = Bed::open(directory.path()).await;
    let owner = tenant("owner");
    let mut videos = Vec::new();
    for i in 0..4 {
        let bytes = fade(i, i % 2 == 0);
        videos.push(bed.upload(&owner, &format!("{i}.mp4"), &bytes).await);
    }
    let dataset = async |name, labels: [&str; 2]| {
        let examples = videos.iter().enumerate().map(|(i, video)| ExampleRecord {
            video: *video,
            labels: labels[i % 2].into(),
            split: Split::Train,
        });
        bed.dataset(&owner, name, examples.collect()).await
    };
    let sided = dataset("sided", ["swipe_left", "swipe_right"]).await;
    let other = dataset("other", ["jump", "run"]).await;
    let task = bed.task(&owner, "task", ADAPTERS).await;
    let runners = bed.run();
    let off = Some((false, "no clip is mirrored"));
    let half = Some((false, "half of the training clips are mirrored"));
    let sides = Some((true, "\"swipe_left\", \"swipe_right\""));
    for (mirror, dataset, is_on, told) in [
        (Mirror::Auto, &sided, false, off),
        (Mirror::Auto, &other, true, half),
        (Mirror::On, &sided, true, sides),
        (Mirror::On, &other, true, None),
        (Mirror::Off, &sided, false, None),
    ] {
        let hyper = HyperParameters {
            mirror: Some(mirror),
            ..hyper(1, 5)
        };
        let job = runners.submit(&owner, &task, dataset, hyper).await;
        let (job, events) = runners.end(&owner, job).await;
        assert_eq!(job.state, JobState::Succeeded, "{:?}", job.message);
        let used = &job.hyper_parameters;
        assert_eq!(
            (used.mirror, used.horizontal_flip),
            (Some(mirror), Some(is_on))
        );
        let own = events.iter().find_map(|event| match &event.event {
            Event::Message { warning, text } if text.contains("mirror") => Some((*warning, text)),
            Event::Message { .. }
            | Event::Step(_)
            | Event::Evaluation(_)
            | Event::Comparison(_)
            | Event::State { .. } => None,
        });
        assert_eq!(
            own.is_some(),
            told.is_some(),
            "{mirror:?}: {:?}",
            messages(&events)
        );
        if let (Some((is_warning, text)), Some((warns, part))) = (own, told) {
            assert!(is_warning == warns && text.contains(part), "{text}");
        }
    }
    let hyper = HyperParameters {
        mirror: Some(Mirror::Off),
        horizontal_flip: Some(true),
        ..hyper(1, 5)
    };
    let refused = runners
        .handle
        .submit(&owner, &task, &sided, hyper, None)
        .await;
    assert!(
        matches!(&refused, Err(Error::Invalid(invalid)) if invalid.field == "mirror"),
        "{refused:?}"
    );
    runners.drain().await;
    bed.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_probe_that_cannot_crop_or_mirror_says_so_at_its_submission() {
    let directory = tempfile::tempdir().expect("a directory");
    let bed = Bed::open(directory.path()).await;
    let owner = tenant("owner");
    let (_, dataset) = bed.fades(&owner, 2, 0).await;
    let probe = bed.task(&owner, "probe", AdapterConfig::LINEAR_PROBE).await;
    // Nobody works on it.
    let handle = bed.handle();
    for (hyper, is_told) in [
        (
            HyperParameters {
                min_crop_area: Some(0.5),
                mirror: Some(Mirror::On),
                ..hyper(1, 1)
            },
            true,
        ),
        (hyper(1, 1), false),
    ] {
        let job = handle.submit(&owner, &probe, &dataset, hyper, None).await;
        let job = job.expect("a job").id;
        let events = bed.parts.metadata.list_events(&owner, job, 0, 10).await;
        let events = events.expect("events");
        let told = messages(&events).join("\n");
        assert_eq!(
            told.ends_with("not used are crops, mirroring"),
            is_told,
            "{told}"
        );
        assert_eq!(events.len(), 1 + usize::from(is_told));
    }
    bed.close().await;
}
