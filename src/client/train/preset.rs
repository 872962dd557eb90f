//! Recipes by name: the shape of a task and the hyper-parameters of a job, of which every option that is given besides replaces its own.
//!
//! Those of the reference are its training scripts (linziyi96/st-adapter, `scripts/`), with the batch over all of their processes.

use super::Hyper;
use crate::client::tasks::{Sites, TaskShape};

/// A recipe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Preset {
    /// Chosen by the server from the data set and the backbone
    Auto,
    /// The reference's for Kinetics-400: adapters of width 384 before the MLP of each block
    #[value(name = "k400-12x384")]
    K400,
    /// The reference's for Something-Something v2: adapters of width 384 before attention and the MLP of each block
    #[value(name = "ssv2-24x384")]
    Ssv2,
}

impl Preset {
    /// The task's shape: what was given, completed.
    pub(super) fn shape(self, given: TaskShape) -> TaskShape {
        match self {
            Self::Auto => given,
            Self::K400 => TaskShape {
                sites: given.sites.or(Some(Sites::PreMlp)),
                adapter_width: given.adapter_width.or(Some(384)),
                adapter_kernel: given.adapter_kernel.or(Some([3, 1, 1])),
                num_frames: given.num_frames.or(Some(8)),
                sampling_rate: given.sampling_rate.or(Some(16)),
                temporal_views: given.temporal_views.or(Some(3)),
                spatial_views: given.spatial_views.or(Some(1)),
                ..given
            },
            Self::Ssv2 => TaskShape {
                sites: given.sites.or(Some(Sites::Both)),
                adapter_width: given.adapter_width.or(Some(384)),
                adapter_kernel: given.adapter_kernel.or(Some([3, 1, 1])),
                num_frames: given.num_frames.or(Some(8)),
                sampling_rate: given.sampling_rate.or(Some(0)),
                temporal_views: given.temporal_views.or(Some(1)),
                spatial_views: given.spatial_views.or(Some(3)),
                ..given
            },
        }
    }

    /// The job's hyper-parameters: what was given, completed.
    pub(super) fn hyper(self, given: Hyper) -> Hyper {
        match self {
            Self::Auto => given,
            Self::K400 => {
                let jitter = given.min_crop_area.is_none().then_some(1.15);
                Hyper {
                    epochs: given.epochs.or(Some(12)),
                    batch_size: given.batch_size.or(Some(192)),
                    short_side_scale: given.short_side_scale.or(jitter),
                    horizontal_flip: true,
                    ..common(given)
                }
            }
            Self::Ssv2 => {
                let area = given.short_side_scale.is_none().then_some(0.08);
                let augment = given.rand_augment.clone();
                Hyper {
                    epochs: given.epochs.or(Some(50)),
                    batch_size: given.batch_size.or(Some(256)),
                    min_crop_area: given.min_crop_area.or(area),
                    rand_augment: augment.or_else(|| Some("rand-m7-n4-mstd0.5-inc1".to_owned())),
                    ..common(given)
                }
            }
        }
    }
}

/// What the reference's scripts do not set.
fn common(given: Hyper) -> Hyper {
    let rate = given.learning_rate.is_none().then_some(1e-3);
    let warmup = given.warmup_share.is_none().then_some(2.0);
    Hyper {
        base_learning_rate: given.base_learning_rate.or(rate),
        weight_decay: given.weight_decay.or(Some(1e-2)),
        warmup_epochs: given.warmup_epochs.or(warmup),
        dropout: given.dropout.or(Some(0.5)),
        ..given
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
            (ssv2.min_crop_area, ssv2.horizontal_flip),
            (Some(0.08), false)
        );
        let auto = Preset::Auto.shape(TaskShape::default());
        assert_eq!((auto.sites, auto.adapter_width), (None, None));
    }
}
