//! What is left of a recipe beside what was given.

use super::*;

#[test]
fn presets_are_the_recipes_of_the_reference() {
    let common = Hyper {
        base_learning_rate: Some(1e-3),
        weight_decay: Some(1e-2),
        warmup_epochs: Some(2.0),
        dropout: Some(0.5),
        ..Hyper::default()
    };
    let k400 = Hyper {
        epochs: Some(12),
        batch_size: Some(192),
        short_side_scale: Some(1.15),
        mirror: Some(Mirror::On),
        ..common.clone()
    };
    let ssv2 = Hyper {
        epochs: Some(50),
        batch_size: Some(256),
        min_crop_area: Some(0.08),
        rand_augment: Some("rand-m7-n4-mstd0.5-inc1".to_owned()),
        mirror: Some(Mirror::Off),
        ..common
    };
    let shape = |sites, rate, temporal, spatial| TaskShape {
        sites: Some(sites),
        adapter_width: Some(384),
        adapter_kernel: Some([3, 1, 1]),
        num_frames: Some(8),
        sampling_rate: Some(rate),
        temporal_views: Some(temporal),
        spatial_views: Some(spatial),
        ..TaskShape::default()
    };
    for (preset, hyper, shape) in [
        (Preset::K400, k400, shape(Sites::PreMlp, 16, 3, 1)),
        (Preset::Ssv2, ssv2, shape(Sites::Both, 0, 1, 3)),
    ] {
        let own = preset.hyper(Hyper::default());
        assert_eq!(format!("{own:?}"), format!("{hyper:?}"));
        let own = preset.shape(TaskShape::default());
        assert_eq!(format!("{own:?}"), format!("{shape:?}"));
    }
}

#[test]
fn options_replace_those_of_a_preset() {
    let whole = Preset::K400.hyper(Hyper::default());
    assert_eq!(whole.base_learning_rate, Some(1e-3));
    assert_eq!((whole.warmup_share, whole.warmup_epochs), (None, Some(2.0)));
    let given = Hyper {
        learning_rate: Some(1e-4),
        warmup_share: Some(0.2),
        min_crop_area: Some(0.3),
        epochs: Some(3),
        ..Hyper::default()
    };
    let own = Preset::K400.hyper(given);
    assert_eq!(
        (own.learning_rate, own.base_learning_rate),
        (Some(1e-4), None)
    );
    assert_eq!((own.warmup_share, own.warmup_epochs), (Some(0.2), None));
    assert_eq!((own.min_crop_area, own.short_side_scale), (Some(0.3), None));
    assert_eq!((own.epochs, own.batch_size), (Some(3), Some(192)));
    let shape = Preset::K400.shape(TaskShape {
        num_frames: Some(16),
        ..TaskShape::default()
    });
    assert_eq!(
        (shape.num_frames, shape.sampling_rate),
        (Some(16), Some(16))
    );
    let ssv2 = Preset::Ssv2.hyper(Hyper::default());
    assert_eq!(
        ssv2.rand_augment.as_deref(),
        Some("rand-m7-n4-mstd0.5-inc1")
    );
    assert_eq!(
        (ssv2.min_crop_area, ssv2.mirror),
        (Some(0.08), Some(Mirror::Off))
    );
    let auto = Preset::Auto.shape(TaskShape::default());
    assert_eq!((auto.sites, auto.adapter_width), (None, None));
}

/// Numbers of the pairs of options that stand in place of one another, of which both are set.
fn both(own: &Hyper) -> Vec<usize> {
    let is_set = [
        (own.mirror.is_some(), own.horizontal_flip),
        (own.min_crop_area.is_some(), own.short_side_scale.is_some()),
        (own.warmup_share.is_some(), own.warmup_epochs.is_some()),
        (
            own.learning_rate.is_some(),
            own.base_learning_rate.is_some(),
        ),
    ];
    let pairs = is_set.into_iter().enumerate();
    let both = pairs.filter(|(_, (one, other))| *one && *other);
    both.map(|(pair, _)| pair).collect()
}

#[test]
fn an_option_also_replaces_what_stands_in_its_place() {
    type Set = fn(&mut Hyper);
    let options: [Set; 10] = [
        |_| {},
        |own| own.mirror = Some(Mirror::Off),
        |own| own.mirror = Some(Mirror::Auto),
        |own| own.horizontal_flip = true,
        |own| own.min_crop_area = Some(0.5),
        |own| own.short_side_scale = Some(1.2),
        |own| own.warmup_share = Some(0.1),
        |own| own.warmup_epochs = Some(1.0),
        |own| own.learning_rate = Some(1e-4),
        |own| own.base_learning_rate = Some(1e-4),
    ];
    for preset in [Preset::Auto, Preset::K400, Preset::Ssv2] {
        for (number, set) in options.into_iter().enumerate() {
            let mut given = Hyper::default();
            set(&mut given);
            let own = preset.hyper(given.clone());
            assert_eq!(both(&own), [0; 0], "{preset:?}, option {number}");
            // What was given is still there.
            let mut again = own.clone();
            set(&mut again);
            assert_eq!(
                format!("{again:?}"),
                format!("{own:?}"),
                "{preset:?}, option {number}"
            );
        }
    }
    let k400 = |given| Preset::K400.hyper(given);
    let off = Hyper {
        mirror: Some(Mirror::Off),
        ..Hyper::default()
    };
    assert_eq!(k400(off).mirror, Some(Mirror::Off));
    assert_eq!(k400(Hyper::default()).mirror, Some(Mirror::On));
}

#[test]
fn few_epochs_have_a_shorter_warm_up() {
    for (epochs, warmup) in [
        (None, 2.0),
        (Some(1), 0.5),
        (Some(3), 1.5),
        (Some(100), 2.0),
    ] {
        let given = Hyper {
            epochs,
            ..Hyper::default()
        };
        assert_eq!(Preset::K400.hyper(given).warmup_epochs, Some(warmup));
    }
}

#[test]
fn a_shape_that_is_given_is_one_that_a_task_can_have() {
    let uniform = Preset::K400.shape(TaskShape {
        sampling_rate: Some(0),
        ..TaskShape::default()
    });
    assert_eq!(
        (uniform.sampling_rate, uniform.temporal_views),
        (Some(0), Some(1))
    );
    let strided = Preset::K400.shape(TaskShape::default());
    assert_eq!(
        (strided.sampling_rate, strided.temporal_views),
        (Some(16), Some(3))
    );
    // A task without adapters has none of a width, by which it would be refused when it exists.
    let bare = Preset::Ssv2.shape(TaskShape {
        sites: Some(Sites::None),
        ..TaskShape::default()
    });
    assert_eq!((bare.adapter_width, bare.adapter_kernel), (None, None));
    let wide = Preset::Ssv2.shape(TaskShape::default());
    assert_eq!(
        (wide.sites, wide.adapter_width),
        (Some(Sites::Both), Some(384))
    );
}
