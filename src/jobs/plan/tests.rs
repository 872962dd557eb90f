//! Tests of plans: defaults, ranges, batches, and that a plan completes to itself.

use std::num::NonZeroU16;

use proptest::prelude::*;

use super::*;
use crate::spec::Head;

const WITH_SITES: AdapterConfig = AdapterConfig {
    adapter_pre_mlp: true,
    adapter_width: 384,
    ..AdapterConfig::LINEAR_PROBE
};

fn plan(clips: u64) -> Plan {
    Plan::new(&HyperParameters::default(), clips, &WITH_SITES, 7)
}

#[test]
fn defaults_follow_the_size_of_the_data_set() {
    // clips, batch, epochs, steps, checkpoint every
    for (clips, batch, epochs, steps, apart) in [
        (1, 1, 40, 40, 10),
        (3, 3, 40, 40, 10),
        (8, 8, 40, 40, 10),
        (160, 8, 13, 260, 13),
        (400, 8, 5, 250, 13),
        (10_000, 8, 4, 5000, 250),
    ] {
        let plan = plan(clips);
        let got = (
            plan.batch_size,
            plan.epochs,
            plan.total_steps(),
            plan.checkpoint_steps,
        );
        assert_eq!(got, (batch, epochs, steps, apart), "{clips} clips");
    }
    // More labels need more steps: labels, clips, epochs, checkpoint every
    let default = HyperParameters::default();
    for (labels, clips, epochs, apart) in [
        (10, 160, 13, 13),
        (101, 2020, 10, 127),
        (101, 400, 40, 100),
        (400, 240_000, 4, 6000),
    ] {
        let plan = plan(clips).with_labels(&default, labels);
        let got = (plan.epochs, plan.checkpoint_steps);
        assert_eq!(got, (epochs, apart), "{clips} clips of {labels} labels");
        let submitted = plan.hyper_parameters();
        let again = Plan::new(&submitted, clips, &WITH_SITES, 9).with_labels(&submitted, labels);
        assert_eq!(again, plan);
    }
    let many = plan(2020).with_labels(&default, 101);
    let told = many.chosen(&default, &WITH_SITES, 192);
    let epochs = "chosen: 10 epochs, 2530 steps: about 2525 (25 for each of 101 labels) within 4 to 40 epochs";
    assert!(told.iter().any(|own| own == epochs), "{told:?}");
    assert_eq!(plan(511).dropout, 0.0);
    assert_eq!(plan(512).dropout, 0.5);
    assert_eq!(plan(8).learning_rate, 2e-3);
    let of = |adapter: &AdapterConfig| Plan::new(&HyperParameters::default(), 8, adapter, 7);
    // Narrow adapters learn faster: the width of the paper's keeps the paper's rate.
    for (width, factor, told) in [
        (1, 2.0, ", doubled for adapters of width 1"),
        (96, 2.0, ", doubled for adapters of width 96"),
        (
            192,
            2_f64.sqrt(),
            ", times the square root of 384/192 for their width",
        ),
        (384, 1.0, " clips"),
        (768, 1.0, " clips"),
    ] {
        let adapter = AdapterConfig {
            adapter_width: width,
            ..WITH_SITES
        };
        let plan = of(&adapter);
        assert_eq!(plan.learning_rate, 2e-3 * factor, "width {width}");
        let why = plan.chosen(&default, &adapter, 192);
        let is_told = |own: &String| own.contains("learning rate") && own.ends_with(told);
        assert!(why.iter().any(is_told), "{why:?}");
        let frames = AdapterConfig {
            head: Head::Frames(NonZeroU16::MIN),
            ..adapter
        };
        assert_eq!(of(&frames).learning_rate, 1e-3);
    }
    let probe = of(&AdapterConfig::LINEAR_PROBE);
    assert_eq!((probe.learning_rate, probe.seed), (5e-3, 7));
    let frames = AdapterConfig {
        head: Head::Frames(NonZeroU16::MIN),
        ..WITH_SITES
    };
    assert_eq!(of(&frames).learning_rate, 1e-3);
}

#[test]
fn what_was_not_submitted_is_told_with_its_reason() {
    let told = |submitted: &HyperParameters, clips| {
        let plan = Plan::new(submitted, clips, &WITH_SITES, 7);
        plan.chosen(submitted, &WITH_SITES, 192)
    };
    assert_eq!(
        told(&HyperParameters::default(), 73),
        [
            "chosen: 10 steps of 7 or 8 clips an epoch: 73 training clips divided equally into batches of at most 8 so that no step has far fewer clips than another",
            "chosen: 25 epochs, 250 steps: about 250 within 4 to 40 epochs",
            "chosen: learning rate 0.002: that of adapters under the paper's head for batches of 8 clips",
            "chosen: warm-up 25 steps: a tenth of all",
            "chosen: no dropout: fewer than 512 clips",
        ]
    );
    let rate = |batch_size| {
        let submitted = HyperParameters {
            batch_size: Some(batch_size),
            ..HyperParameters::default()
        };
        let told = told(&submitted, 1000);
        told.into_iter()
            .find(|own| own.contains("learning rate"))
            .expect("a rate")
    };
    for (batch, end) in [
        (
            2,
            "0.001: that of adapters under the paper's head for batches of 8 clips, halved for the smaller batch",
        ),
        (
            16,
            "0.0028284: that of adapters under the paper's head for batches of 8 clips, times the square root of 16/8",
        ),
        (
            256,
            "0.004: that of adapters under the paper's head for batches of 8 clips, doubled for the larger batch",
        ),
    ] {
        assert_eq!(rate(batch), format!("chosen: learning rate {end}"));
    }
    let half = AdapterConfig {
        adapter_width: 96,
        ..WITH_SITES
    };
    let submitted = HyperParameters {
        batch_size: Some(40),
        ..HyperParameters::default()
    };
    let uneven = Plan::new(&submitted, 100, &half, 7).chosen(&submitted, &half, 192);
    assert_eq!(
        uneven[..2],
        [
            "chosen: adapters of width 96: half of the backbone's width (192), as for a task that is created without a width",
            "chosen: 3 steps of 33 or 34 clips an epoch: 100 training clips divided equally into batches of at most 40, as submitted, so that no step has far fewer clips than another",
        ]
    );
    let some = HyperParameters {
        epochs: Some(3),
        base_learning_rate: Some(1e-3),
        warmup_epochs: Some(1.0),
        ..HyperParameters::default()
    };
    assert_eq!(
        told(&some, 512),
        [
            "chosen: 64 steps of 8 clips an epoch: 512 training clips divided equally into batches of at most 8 so that no step has far fewer clips than another",
            "chosen: dropout 0.5: from 512 clips on",
        ]
    );
    let plan = plan(40);
    assert_eq!(
        plan.chosen(&plan.hyper_parameters(), &WITH_SITES, 192),
        [""; 0]
    );
}

#[test]
fn what_is_out_of_range_is_named() {
    let of = |change: fn(&mut HyperParameters)| {
        let mut submitted = HyperParameters::default();
        change(&mut submitted);
        check(&submitted).map_err(|e| e.field)
    };
    assert_eq!(of(|_| {}), Ok(()));
    assert_eq!(of(|h| h.epochs = Some(0)), Err("epochs"));
    assert_eq!(of(|h| h.epochs = Some(10_001)), Err("epochs"));
    assert_eq!(of(|h| h.batch_size = Some(1025)), Err("batch_size"));
    assert_eq!(
        of(|h| h.checkpoint_steps = Some(0)),
        Err("checkpoint_steps")
    );
    assert_eq!(of(|h| h.learning_rate = Some(0.0)), Err("learning_rate"));
    assert_eq!(
        of(|h| h.learning_rate = Some(f64::NAN)),
        Err("learning_rate")
    );
    assert_eq!(of(|h| h.weight_decay = Some(-0.1)), Err("weight_decay"));
    assert_eq!(of(|h| h.warmup_share = Some(1.1)), Err("warmup_share"));
    assert_eq!(of(|h| h.dropout = Some(1.0)), Err("dropout"));
    assert_eq!(of(|h| h.clip_norm = Some(f64::INFINITY)), Err("clip_norm"));
    assert_eq!(of(|h| h.min_crop_area = Some(0.0)), Err("min_crop_area"));
    for (value, field) in [
        (-0.1, "warmup_epochs"),
        (0.0, "base_learning_rate"),
        (1.0, "label_smoothing"),
        (0.9, "short_side_scale"),
        (1.1, "random_erasing"),
    ] {
        let mut submitted = HyperParameters::default();
        let own = match field {
            "warmup_epochs" => &mut submitted.warmup_epochs,
            "base_learning_rate" => &mut submitted.base_learning_rate,
            "label_smoothing" => &mut submitted.label_smoothing,
            "short_side_scale" => &mut submitted.short_side_scale,
            _ => &mut submitted.random_erasing,
        };
        *own = Some(value);
        assert_eq!(check(&submitted).map_err(|e| e.field), Err(field));
    }
}

#[test]
fn rand_augment_is_read_when_it_is_submitted() {
    let of = |text: &str| HyperParameters {
        rand_augment: Some(text.into()),
        ..HyperParameters::default()
    };
    let wrong = check(&of("rand-m7-x")).unwrap_err();
    assert_eq!(wrong.field, "rand_augment");
    let plan = Plan::new(&of("rand-m7-n4-mstd0.5-inc1"), 8, &WITH_SITES, 1);
    assert!(plan.augments() && plan.redraws());
    let shown = plan.hyper_parameters();
    assert_eq!(
        shown.rand_augment.as_deref(),
        Some("rand-m7-n4-mstd0.5-inc1")
    );
    assert_eq!(Plan::new(&shown, 8, &WITH_SITES, 2), plan);
    assert_eq!(Plan::new(&of(""), 8, &WITH_SITES, 1).rand_augment, None);
}

#[test]
fn what_stands_in_place_of_another_field_is_not_given_beside_it() {
    let mut both = HyperParameters {
        warmup_epochs: Some(2.0),
        warmup_share: Some(0.1),
        ..HyperParameters::default()
    };
    let field = |submitted: &HyperParameters| check(submitted).map_err(|e| e.field);
    assert_eq!(field(&both), Err("warmup_epochs"));
    both.warmup_share = None;
    both.epochs = Some(1);
    assert_eq!(field(&both), Err("warmup_epochs"));
    let mut rates = HyperParameters {
        learning_rate: Some(1e-3),
        base_learning_rate: Some(3.2e-2),
        ..HyperParameters::default()
    };
    assert_eq!(field(&rates), Err("base_learning_rate"));
    // As a job that was completed shows them.
    rates.batch_size = Some(8);
    assert_eq!(field(&rates), Ok(()));
    let crops = HyperParameters {
        min_crop_area: Some(0.5),
        short_side_scale: Some(1.15),
        ..HyperParameters::default()
    };
    assert_eq!(field(&crops), Err("short_side_scale"));
}

#[test]
fn a_rate_of_256_clips_and_a_warm_up_in_epochs_become_those_of_the_batch() {
    let submitted = HyperParameters {
        epochs: Some(20),
        warmup_epochs: Some(2.0),
        base_learning_rate: Some(0.032),
        ..HyperParameters::default()
    };
    assert_eq!(check(&submitted), Ok(()));
    let plan = Plan::new(&submitted, 73, &WITH_SITES, 1);
    assert!((plan.learning_rate - 1e-3).abs() < 1e-15);
    assert_eq!((plan.steps_per_epoch(), plan.warmup_steps()), (10, 20));
    // A budget shortens it with all else, so that the rate falls again before the end.
    let short = HyperParameters {
        max_steps: Some(15),
        ..submitted.clone()
    };
    let short = Plan::new(&short, 73, &WITH_SITES, 1);
    assert_eq!((short.total_steps(), short.warmup_steps()), (15, 1));
    let shown = plan.hyper_parameters();
    assert_eq!((shown.warmup_share, shown.warmup_epochs), (None, Some(2.0)));
    assert_eq!(shown.base_learning_rate, Some(0.032));
}

#[test]
fn seventy_three_clips_at_eight_are_ten_batches_of_seven_or_eight() {
    let plan = plan(73);
    let sizes: Vec<u64> = (0..10)
        .map(|step| {
            let places = plan.places(step);
            places.end - places.start
        })
        .collect();
    assert_eq!(sizes, [7, 7, 7, 8, 7, 7, 8, 7, 7, 8]);
    assert_eq!(plan.whole_places(9), 72..73);
    assert_eq!(plan.whole_places(10), 0..8);
}

proptest! {
    #[test]
    fn the_batches_of_an_epoch_are_equal_and_cover_it(clips in 1_u64..=10_000, batch in 1_u32..=64, epoch in 0_u64..3) {
        let submitted = HyperParameters { epochs: Some(3), batch_size: Some(batch), ..HyperParameters::default() };
        let plan = Plan::new(&submitted, clips, &WITH_SITES, 3);
        let steps = plan.steps_per_epoch();
        let (mut next, mut sizes) = (0, Vec::new());
        for step in 0..steps {
            let places = plan.places(epoch * steps + step);
            prop_assert_eq!(places.start, next);
            next = places.end;
            sizes.push(places.end - places.start);
        }
        prop_assert_eq!(next, clips);
        let (least, most) = (sizes.iter().min().unwrap(), sizes.iter().max().unwrap());
        prop_assert!(most - least <= 1 && *most <= u64::from(batch));
        // Two of three clips fit into no two batches of two.
        prop_assert!(*least > 1 || clips == 1 || batch <= 2);
    }

    #[test]
    fn a_plan_completes_to_itself(clips in 1_u64..100_000, epochs in prop::option::of(1_u32..50), batch in prop::option::of(1_u32..=1024), sites: bool) {
        let submitted = HyperParameters { epochs, batch_size: batch, ..HyperParameters::default() };
        let adapter = if sites { WITH_SITES } else { AdapterConfig::LINEAR_PROBE };
        let plan = Plan::new(&submitted, clips, &adapter, 3);
        prop_assert_eq!(check(&plan.hyper_parameters()), Ok(()));
        prop_assert_eq!(&Plan::new(&plan.hyper_parameters(), clips, &adapter, 9), &plan);
        let (epoch, step) = plan.position(plan.total_steps() - 1);
        prop_assert_eq!((epoch + 1, step + 1), (u64::from(plan.epochs), plan.steps_per_epoch()));
    }
}

proptest! {
    #[test]
    fn budgets_end_training_at_the_last_step_that_they_allow(clips in 1_u64..500, batch in 1_u32..40, frames in 1_usize..17, budget in 1_u64..40_000) {
        let of = |submitted: HyperParameters| Plan::new(&submitted, clips, &WITH_SITES, 7).with_frames(frames);
        let whole = HyperParameters {
            batch_size: Some(batch),
            epochs: Some(20),
            ..HyperParameters::default()
        };
        let all = of(whole.clone()).total_steps();
        let steps = of(HyperParameters { max_steps: Some(budget), ..whole.clone() });
        prop_assert_eq!(steps.total_steps(), all.min(budget));
        let plan = of(HyperParameters { max_clip_frames: Some(budget), ..whole });
        let seen = |steps: u64| (0..steps).map(|step| { let places = plan.places(step); places.end - places.start }).sum::<u64>() * frames as u64;
        let total = plan.total_steps();
        prop_assert!(seen(total) <= budget || total == 1);
        prop_assert!(total == all || seen(total + 1) > budget);
        let again = Plan::new(&plan.hyper_parameters(), clips, &WITH_SITES, 8).with_frames(frames);
        prop_assert_eq!(again, plan);
    }
}
