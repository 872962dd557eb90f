//! Serving and training on one device: interleaving changes no result, and a panic affects only its own work item.

use std::sync::{Arc, Mutex};

use frameshift::device::{Walk, Work};
use frameshift::ids::TenantId;
use frameshift::model::{
    AdapterSet, Backbone, Dropout, Inference, Keep, Segment, Step, StepOutput, TrainableSet,
    TrainingStep,
};
use frameshift::rng::Stream;
use frameshift::telemetry::Metrics;

use super::fixture::{ADAPTER, CLASSES, backbone, bits, clip, stored};
use crate::server::found;

/// Work item that runs a forward pass and stores its logits.
struct Forward {
    inference: Option<Inference>,
    logits: Arc<Mutex<Vec<Vec<Vec<f32>>>>>,
}

impl Work for Forward {
    fn advance(&mut self) -> Step {
        let step = self.inference.as_mut().unwrap().advance().unwrap();
        if step != Step::Done {
            return step;
        }
        let logits = self.inference.take().unwrap().into_logits().unwrap();
        self.logits.lock().unwrap().push(logits);
        Step::Done
    }

    fn is_ready(&self) -> bool {
        self.inference.as_ref().is_none_or(Inference::is_ready)
    }
}

/// Work item of a training step that calls `between` before each next slice.
struct Training<F> {
    step: TrainingStep,
    slices: usize,
    between: F,
}

impl<F: FnMut() + Send + 'static> Walk for Training<F> {
    type Output = (StepOutput, usize);

    fn advance(&mut self) -> Step {
        (self.between)();
        self.slices += 1;
        self.step.advance().unwrap()
    }

    fn finish(self) -> (StepOutput, usize) {
        (self.step.finish().unwrap(), self.slices)
    }
}

fn serving_set() -> Arc<AdapterSet> {
    let stored = stored(3, ADAPTER, 0.3);
    let config = super::fixture::config();
    Arc::new(AdapterSet::from_safetensors(&stored.bytes, &config, ADAPTER, CLASSES).unwrap())
}

fn inference(backbone: &Arc<Backbone>, set: &Arc<AdapterSet>) -> Inference {
    let segment = Segment {
        set: set.clone(),
        clips: 0..2,
        num_frames: 4,
    };
    let clips = vec![clip(1, 4), clip(2, 4)];
    Inference::new(backbone.clone(), clips, vec![segment]).unwrap()
}

fn training(backbone: &Arc<Backbone>, seed: u64, keep: Keep) -> TrainingStep {
    let stored = stored(seed, ADAPTER, 0.3);
    let set =
        AdapterSet::from_safetensors(&stored.bytes, backbone.config(), ADAPTER, CLASSES).unwrap();
    let set = TrainableSet::new(&set).unwrap();
    let dropout = Dropout {
        rate: 0.5,
        stream: Stream::new(seed, "dropout"),
    };
    let clips = vec![clip(seed, 4), clip(seed + 1, 4)];
    TrainingStep::new(backbone.clone(), &set, clips, &[0, 2], Some(dropout), keep).unwrap()
}

/// Returns the bits of all results of a step.
fn fingerprint(output: &StepOutput) -> (u64, Vec<(String, Vec<u32>)>) {
    let gradients = output.gradients.tensors().unwrap();
    let gradients = gradients.iter().map(|(name, gradient)| {
        let values = gradient.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        (name.to_string(), bits(&values))
    });
    (output.loss.to_bits(), gradients.collect())
}

#[tokio::test]
async fn slices_between_slices_change_neither_result_by_a_bit() {
    let (device, _) = crate::model::device(&Metrics::new());
    let (backbone, set) = (backbone(), serving_set());
    let mut undisturbed = inference(&backbone, &set);
    while undisturbed.advance().unwrap() != Step::Done {}
    let undisturbed = undisturbed.into_logits().unwrap();
    let steps = [(10, Keep::All), (20, Keep::Recompute)];
    let alone = steps.map(|(seed, keep)| {
        let mut step = training(&backbone, seed, keep);
        while step.advance().unwrap() != Step::Done {}
        fingerprint(&step.finish().unwrap())
    });

    let logits = Arc::new(Mutex::new(Vec::new()));
    let walk = |(seed, keep): (u64, Keep)| {
        let (device, backbone, set) = (device.clone(), backbone.clone(), set.clone());
        let logits = logits.clone();
        Training {
            step: training(&backbone, seed, keep),
            slices: 0,
            between: move || {
                let forward = Forward {
                    inference: Some(inference(&backbone, &set)),
                    logits: logits.clone(),
                };
                device.submit(Box::new(forward)).unwrap();
            },
        }
    };
    let paused = device.pause();
    let training = device.owned_by(&TenantId::anonymous(), &"task".parse().unwrap());
    let [first, second] = steps.map(|step| training.run(walk(step)));
    let both = async { tokio::join!(first, second) };
    let ((first, second), ()) = tokio::join!(both, async { drop(paused) });
    let (first, second) = (first.unwrap(), second.unwrap());
    assert_eq!(fingerprint(&first.0), alone[0]);
    assert_eq!(fingerprint(&second.0), alone[1]);
    // The last forward pass was submitted by the last training slice.
    let submitted = first.1 + second.1;
    found(|| (logits.lock().unwrap().len() >= submitted).then_some(())).await;
    for logits in logits.lock().unwrap().iter() {
        assert_eq!(bits(&logits.concat()), bits(&undisturbed.concat()));
    }
    assert!(first.1 > 3 && second.1 > 3);
}
