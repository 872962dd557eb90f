//! What a step, a rollback and a panic change, and steps beside the PyTorch peer.

mod peer;

use super::*;
use crate::jobs::checkpoint::{self, Origin};
use crate::model::{Activation, BackboneConfig, Tensors};
use crate::spec::{Digest, HyperParameters, Normalization};

fn backbone() -> Arc<Backbone> {
    let config = BackboneConfig {
        image_size: 8,
        patch_size: 4,
        width: 8,
        layers: 1,
        heads: 1,
        mlp_width: 8,
        activation: Activation::Gelu,
        eps: 1e-5,
        pre_norm: false,
        patch_bias: false,
        normalization: Normalization::HALF,
    };
    let zeros = |shape: Vec<usize>| (shape.clone(), vec![0.0; shape.iter().product()]);
    let tensors: Tensors = config
        .tensors()
        .into_iter()
        .map(|(name, shape)| (name, zeros(shape)))
        .collect();
    Arc::new(Backbone::from_tensors("tiny", config, Digest([1; 32]), tensors).unwrap())
}

#[test]
fn a_trainer_that_a_panic_left_half_changed_is_not_saved() {
    let (backbone, adapter) = (backbone(), AdapterConfig::LINEAR_PROBE);
    let plan = Plan::new(&HyperParameters::default(), 4, &adapter, 7);
    let origin = Origin {
        dataset: Digest([2; 32]),
        backbone: Arc::clone(&backbone),
        adapter,
        classes: 2,
        plan: plan.clone(),
        parent: None,
    };
    let trainer = Trainer::fresh(backbone, adapter, 2, plan).unwrap().shared();
    let save = |trainer: &Shared| {
        let trainer = trainer.lock().map_err(|torn| torn.to_string())?;
        checkpoint::encode(&trainer, &origin).map_err(|error| error.to_string())
    };
    assert!(save(&trainer).is_ok());
    let own = trainer.clone();
    let slice = std::thread::spawn(move || {
        let mut trainer = own.lock().unwrap();
        // The optimiser moved the weights, and the position did not follow.
        trainer.optimizer.restore(1, Tensors::new()).unwrap();
    });
    assert!(slice.join().is_err());
    let refused = save(&trainer).unwrap_err();
    assert!(refused.contains("panicked"), "{refused}");
}

#[test]
fn a_trainer_that_goes_back_once_takes_half_the_rate_and_keeps_its_time() {
    let (backbone, adapter) = (backbone(), AdapterConfig::LINEAR_PROBE);
    let submitted = HyperParameters {
        warmup_share: Some(0.0),
        ..HyperParameters::default()
    };
    let plan = Plan::new(&submitted, 4, &adapter, 7);
    let fresh = || Trainer::fresh(Arc::clone(&backbone), adapter, 2, plan.clone()).unwrap();
    let output = |loss, trainer: &Trainer| {
        let input = Input::Features(vec![vec![0.5; 8]; 4]);
        let targets = Targets {
            labels: vec![0, 1, 0, 1],
            ..Targets::default()
        };
        let mut step = trainer.begin(input, targets, 0).unwrap();
        while step.advance().unwrap() != crate::model::Step::Done {}
        StepOutput {
            loss,
            ..step.finish().unwrap()
        }
    };
    let mut trainer = fresh();
    let good = output(0.7, &trainer);
    let before = trainer.update(good, 4, 0).unwrap();
    trainer.position.training = Duration::from_secs(3);
    let bad = output(f64::NAN, &trainer);
    assert!(matches!(
        trainer.update(bad, 4, 0),
        Err(StepError::NotFinite)
    ));
    assert_eq!(trainer.position.step, 1, "nothing has changed");
    trainer.has_tried(Arc::default());
    trainer.roll_back(fresh());
    assert!(trainer.position.is_halved && trainer.tried.is_some());
    assert_eq!(trainer.position.step, 0);
    assert_eq!(trainer.position.training, Duration::from_secs(3));
    let again = output(0.7, &trainer);
    let after = trainer.update(again, 4, 0).unwrap();
    assert_eq!(after.learning_rate, 0.5 * before.learning_rate);
}
