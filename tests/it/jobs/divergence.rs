//! Losses that are no numbers, of real steps: a job goes back once, at half the rate, and then fails.

use std::sync::Arc;

use frameshift::metadata::{Event, EventRecord};
use frameshift::model::{Backbone, BackboneConfig, Tensors};
use frameshift::rng::Stream;
use frameshift::spec::{AdapterConfig, Digest, HyperParameters, JobState, Selection};

use super::bed::{Bed, backbone_config, hyper, losses, messages, states};
use super::tenant;

/// A backbone whose final norm multiplies by `gain`, so that logits are as large.
fn loud(gain: f32) -> Arc<Backbone> {
    let config: BackboneConfig = backbone_config();
    let mut tensors = Tensors::new();
    for (i, (name, shape)) in config.tensors().into_iter().enumerate() {
        let mut stream = Stream::new(11, "loud backbone").fork(i as u64);
        let count: usize = shape.iter().product();
        let values = match name.as_str() {
            "ln_post.weight" => vec![gain; count],
            name if name.contains("ln_") && name.ends_with("weight") => vec![1.0; count],
            _ => (0..count).map(|_| stream.range(-0.3, 0.3)).collect(),
        };
        tensors.insert(name, (shape, values));
    }
    let backbone = Backbone::from_tensors("loud", config, Digest([5; 32]), tensors);
    Arc::new(backbone.expect("a backbone"))
}

/// Six steps at a rate that rises, a checkpoint after the third one, and no evaluation.
fn submitted(seed: u64) -> HyperParameters {
    HyperParameters {
        learning_rate: Some(1.0),
        warmup_epochs: Some(3.0),
        weight_decay: Some(0.0),
        // Else the moments of such gradients have no number.
        clip_norm: Some(1.0),
        checkpoint_steps: Some(3),
        selection: Some(Selection {
            eval_every: Some(0),
            validation_share: Some(0.0),
            ..Selection::default()
        }),
        ..hyper(3, seed)
    }
}

type Ended = (JobState, Option<String>, Vec<EventRecord>);

/// A job with this seed on a backbone with this gain.
async fn at(gain: f32, seed: u64) -> Ended {
    let directory = tempfile::tempdir().expect("a directory");
    let mut bed = Bed::open(directory.path()).await;
    bed.parts.backbone = loud(gain);
    let ended = train(&bed, seed).await;
    bed.close().await;
    ended
}

/// Of a seed and rising gains, the first job that goes back. `None` when its loss is not the largest in a step that another rate would change.
async fn first_to_go_back(seed: u64) -> Option<Ended> {
    let mut gain = 1e36_f32;
    let (_, _, events) = at(gain, seed).await;
    let losses = losses(&events);
    let most = losses.iter().max_by(|one, other| one.1.total_cmp(&other.1));
    let (step, most) = *most.expect("losses");
    // The weights of step 4 are those of the checkpoint.
    if step < 5 {
        return None;
    }
    // Losses are as large as the gain.
    gain *= (f64::from(f32::MAX) / most / 2.0) as f32;
    while gain.is_finite() {
        let ended = at(gain, seed).await;
        if !gone_back(&ended.2).is_empty() {
            return Some(ended);
        }
        gain *= 1.2;
    }
    None
}

async fn train(bed: &Bed, seed: u64) -> Ended {
    let owner = tenant("owner");
    let (_, dataset) = bed.fades(&owner, 8, 0).await;
    let probe = bed.task(&owner, "probe", AdapterConfig::LINEAR_PROBE).await;
    let runners = bed.run();
    let job = runners
        .submit(&owner, &probe, &dataset, submitted(seed))
        .await;
    let (job, events) = runners.end(&owner, job).await;
    runners.drain().await;
    (job.state, job.reason, events)
}

fn gone_back(events: &[EventRecord]) -> Vec<String> {
    let told = messages(events).into_iter();
    let told = told.filter(|text| text.contains("at half the rate"));
    told.map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_without_a_finite_loss_goes_back_once_and_fails_the_second_time() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut bed = Bed::open(directory.path()).await;
    // No logit of it is a number, at any rate.
    bed.parts.backbone = loud(f32::MAX);
    let (state, reason, events) = train(&bed, 5).await;
    assert_eq!(
        (state, reason.as_deref()),
        (JobState::Failed, Some("TRAINING_DIVERGED"))
    );
    let told = gone_back(&events);
    let [told] = &told[..] else {
        panic!("it goes back once: {told:?}")
    };
    assert!(
        told.starts_with("the loss of step 1 is not finite") && told.contains("after step 0"),
        "{told}"
    );
    assert_eq!(states(&events).last(), Some(&JobState::Failed));
    assert!(losses(&events).is_empty());
    bed.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_diverges_goes_on_from_its_newest_checkpoint_at_half_the_rate() {
    // At the same rate every job would diverge in the same step again. Some would at half the rate, too: of rising seeds, the first one that does not.
    let mut seeds = 0..40;
    let (state, reason, events) = loop {
        let seed = seeds.next().expect("a job that half the rate mends");
        match first_to_go_back(seed).await {
            Some(ended) if ended.0 == JobState::Succeeded => break ended,
            Some(_) | None => {}
        }
    };
    let told = gone_back(&events);
    assert_eq!((state, reason), (JobState::Succeeded, None), "{told:?}");
    let [told] = &told[..] else {
        panic!("it goes back once: {told:?}")
    };
    assert!(
        told.contains("training goes on after step 3 at half the rate"),
        "{told}"
    );
    let losses = losses(&events);
    assert!(
        losses.iter().all(|(_, loss)| loss.is_finite()),
        "{losses:?}"
    );
    // Events of steps come at most so often: some are left out.
    let mut halves = false;
    let mut newest = 0;
    for event in &events {
        match &event.event {
            Event::Step(metrics) => {
                // 0, 1/6, 2/6 … of the peak, and then half of 3/6, 4/6 and 5/6.
                let whole = (metrics.step - 1) as f64 / 6.0;
                let expected = if halves { whole / 2.0 } else { whole };
                let rate = metrics.learning_rate;
                assert!(
                    (rate - expected).abs() < 1e-12,
                    "step {}: {rate}",
                    metrics.step
                );
                newest = metrics.step;
            }
            Event::Message { text, .. } => halves |= text == told,
            Event::Evaluation(_) | Event::Comparison(_) | Event::State { .. } => {}
        }
    }
    assert!(halves && newest == 6, "{newest}");
}
