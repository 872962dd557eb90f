//! Grids, draws, budgets and rankings of sweeps.

use super::*;
use crate::metadata::{SweepJob, SweepShape};
use crate::spec::{AdapterConfig, ClipSampling};

fn spec(shapes: usize, rates: &[f64], halving: u32, epochs: Option<u32>) -> SweepSpec {
    let shape = |place: usize| SweepShape {
        task: format!("t-{place}"),
        adapter: AdapterConfig::LINEAR_PROBE,
        sampling: ClipSampling::uniform(8.try_into().unwrap()),
        auto_head: false,
    };
    SweepSpec {
        dataset: "d".into(),
        dataset_version: None,
        shapes: (0..shapes).map(shape).collect(),
        hyper_parameters: HyperParameters {
            epochs,
            ..HyperParameters::default()
        },
        points: points((shapes, rates), 0, 0).unwrap(),
        seeds: vec![1, 2],
        halving,
        priority: 0,
    }
}

fn ended(spec: &SweepSpec, progress: &mut SweepProgress, top1: impl Fn(usize, u64) -> Option<f64>) {
    for (point, seed) in missing(spec, progress) {
        let top1 = top1(point, seed);
        progress.jobs.push(SweepJob {
            job: String::new(),
            round: progress.round,
            point,
            seed,
            outcome: Some(SweepOutcome {
                state: match top1 {
                    Some(_) => JobState::Succeeded,
                    None => JobState::Failed,
                },
                is_unmeasured: false,
                version: 1,
                top1: top1.unwrap_or(0.0),
                loss: 1.0,
                parameters: 10,
                training_micros: 5,
            }),
        });
    }
}

fn begun(spec: &SweepSpec) -> SweepProgress {
    SweepProgress {
        points: (0..spec.points.len()).collect(),
        ..SweepProgress::default()
    }
}

#[test]
fn a_grid_has_every_pair_and_a_draw_some_of_them_always_the_same() {
    let grid = points((3, &[0.1, 0.2]), 0, 9).unwrap();
    assert_eq!(grid.len(), 6);
    assert_eq!((grid[1].shape, grid[1].learning_rate), (0, Some(0.2)));
    assert_eq!(points((2, &[]), 0, 9).unwrap()[1].learning_rate, None);
    let drawn = points((3, &[0.1, 0.2]), 4, 9).unwrap();
    assert_eq!(drawn, points((3, &[0.1, 0.2]), 4, 9).unwrap());
    assert!(drawn.len() == 4 && drawn.iter().all(|own| grid.contains(own)));
    let others = (0..20).filter(|seed| points((3, &[0.1, 0.2]), 4, *seed).unwrap() != drawn);
    assert!(others.count() > 5);
    for (shapes, rates, field) in [(0, 1, "shapes"), (65, 1, "shapes"), (64, 5, "points")] {
        let rates = vec![0.1; rates];
        assert_eq!(points((shapes, &rates), 0, 1).unwrap_err().field, field);
    }
}

#[test]
fn rounds_shrink_by_the_factor_and_train_longer_by_it() {
    assert_eq!(
        [
            rounds(1, 2),
            rounds(5, 0),
            rounds(2, 2),
            rounds(5, 2),
            rounds(9, 3)
        ],
        [1, 1, 2, 4, 3]
    );
    let own = spec(4, &[0.1], 2, Some(20));
    assert_eq!(rounds(own.points.len(), own.halving), 3);
    let of = |round| hyper_parameters(&own, round, (1, 7));
    assert_eq!(
        [0, 1, 2].map(|round| of(round).epochs),
        [Some(5), Some(10), Some(20)]
    );
    assert_eq!((of(0).learning_rate, of(0).seed), (Some(0.1), Some(7)));
    let mut limited = own.clone();
    limited.hyper_parameters.max_steps = Some(40);
    limited.hyper_parameters.max_seconds = Some(3);
    limited.hyper_parameters.max_clip_frames = Some(1000);
    let budgets = |round| {
        let hyper = hyper_parameters(&limited, round, (1, 7));
        [hyper.max_steps, hyper.max_seconds, hyper.max_clip_frames]
    };
    assert_eq!(budgets(2), [Some(40), Some(3), Some(1000)]);
    assert_eq!(budgets(0), [Some(10), Some(1), Some(250)]);
    assert_eq!(of(0).max_steps, None);
    let tested = |round| of(round).selection.and_then(|own| own.evaluate_test);
    assert_eq!(
        [tested(0), tested(1), tested(2)],
        [Some(false), Some(false), None]
    );
}

#[test]
fn contradictions_are_named() {
    let field = |change: fn(&mut SweepSpec)| {
        let mut own = spec(4, &[0.1], 2, Some(20));
        change(&mut own);
        check(&own).map_err(|invalid| invalid.field)
    };
    assert_eq!(field(|_| {}), Ok(()));
    assert_eq!(field(|own| own.seeds.clear()), Err("seeds"));
    assert_eq!(field(|own| own.seeds.push(1)), Err("seeds"));
    assert_eq!(field(|own| own.halving = 1), Err("halving"));
    assert_eq!(
        field(|own| own.hyper_parameters.epochs = Some(3)),
        Err("epochs")
    );
    assert_eq!(
        field(|own| own.hyper_parameters.epochs = None),
        Err("epochs")
    );
    assert_eq!(
        field(|own| own.hyper_parameters.seed = Some(1)),
        Err("seed")
    );
    assert_eq!(
        field(|own| own.hyper_parameters.parent = Some(1)),
        Err("parent")
    );
    let rate = |own: &mut SweepSpec| own.hyper_parameters.learning_rate = Some(0.1);
    assert_eq!(field(rate), Err("learning_rates"));
}

#[test]
fn the_better_half_goes_on_and_the_rest_keeps_its_rank() {
    let own = spec(4, &[], 2, Some(4));
    let mut progress = begun(&own);
    assert_eq!(missing(&own, &progress).len(), 8);
    // Point 3 has no job that succeeded, point 1 is the best, and point 2 varies.
    ended(&own, &mut progress, |point, seed| match (point, seed) {
        (3, _) => None,
        (2, seed) => Some(0.4 + 0.2 * seed as f64),
        (point, _) => Some([0.5, 0.9][point]),
    });
    let varied = outcome(&progress, 2);
    assert!((varied.top1 - 0.7).abs() < 1e-12 && (varied.spread - 0.02_f64.sqrt()).abs() < 1e-12);
    assert!((varied.range.0 - 0.6).abs() < 1e-12 && (varied.range.1 - 0.8).abs() < 1e-12);
    assert_eq!(outcome(&progress, 3).failed, 2);
    assert_eq!(ranked(&own, &progress), [1, 2, 0, 3]);
    assert_eq!(survivors(&own, &progress), Some(vec![1, 2]));
    progress.points = vec![1, 2];
    progress.round = 1;
    ended(&own, &mut progress, |point, _| Some([0.0, 0.6, 0.8][point]));
    assert_eq!(ranked(&own, &progress), [2, 1, 0, 3]);
    assert_eq!(survivors(&own, &progress), Some(vec![2]));
    progress.points = vec![2];
    progress.round = 2;
    ended(&own, &mut progress, |_, _| Some(0.85));
    assert_eq!(survivors(&own, &progress), None);
    // Nothing that succeeded goes nowhere.
    let mut none = begun(&own);
    ended(&own, &mut none, |_, _| None);
    assert_eq!(survivors(&own, &none), None);
}

#[test]
fn a_part_of_a_sweep_has_one_request() {
    let (one, other) = (SweepId::generate(), SweepId::generate());
    assert_eq!(request(one, "a"), request(one, "a"));
    assert_ne!(request(one, "a"), request(one, "b"));
    assert_ne!(request(one, "a"), request(other, "a"));
}
