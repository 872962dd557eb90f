//! Recipes by name: the shape of a task and the hyper-parameters of a job, of which every option that is given besides replaces its own.
//!
//! Those of the reference are its training scripts (linziyi96/st-adapter, `scripts/`), with the batch over all of their processes.

use super::{Hyper, Mirror};
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
    pub(in crate::client) fn shape(self, given: TaskShape) -> TaskShape {
        match self {
            Self::Auto => given,
            Self::K400 => {
                // Frames that are spread over the whole video have one temporal view.
                let views = if given.sampling_rate == Some(0) { 1 } else { 3 };
                TaskShape {
                    sampling_rate: given.sampling_rate.or(Some(16)),
                    temporal_views: given.temporal_views.or(Some(views)),
                    spatial_views: given.spatial_views.or(Some(1)),
                    ..adapted(given, Sites::PreMlp)
                }
            }
            Self::Ssv2 => TaskShape {
                sampling_rate: given.sampling_rate.or(Some(0)),
                temporal_views: given.temporal_views.or(Some(1)),
                spatial_views: given.spatial_views.or(Some(3)),
                ..adapted(given, Sites::Both)
            },
        }
    }

    /// The job's hyper-parameters: what was given, completed.
    pub(in crate::client) fn hyper(self, given: Hyper) -> Hyper {
        match self {
            Self::Auto => given,
            Self::K400 => {
                let jitter = given.min_crop_area.is_none().then_some(1.15);
                let mirror = (!given.horizontal_flip).then_some(Mirror::On);
                Hyper {
                    epochs: given.epochs.or(Some(12)),
                    batch_size: given.batch_size.or(Some(192)),
                    short_side_scale: given.short_side_scale.or(jitter),
                    mirror: given.mirror.or(mirror),
                    ..common(given)
                }
            }
            Self::Ssv2 => {
                let area = given.short_side_scale.is_none().then_some(0.08);
                let augment = given.rand_augment.clone();
                let mirror = (!given.horizontal_flip).then_some(Mirror::Off);
                Hyper {
                    epochs: given.epochs.or(Some(50)),
                    batch_size: given.batch_size.or(Some(256)),
                    min_crop_area: given.min_crop_area.or(area),
                    mirror: given.mirror.or(mirror),
                    rand_augment: augment.or_else(|| Some("rand-m7-n4-mstd0.5-inc1".to_owned())),
                    ..common(given)
                }
            }
        }
    }
}

/// Adapters of the reference's size at these places, unless others are given; without adapters there is nothing to be wide.
fn adapted(given: TaskShape, sites: Sites) -> TaskShape {
    let sites = given.sites.unwrap_or(sites);
    let has_adapters = sites != Sites::None;
    let (width, kernel) = (
        has_adapters.then_some(384),
        has_adapters.then_some([3, 1, 1]),
    );
    TaskShape {
        sites: Some(sites),
        adapter_width: given.adapter_width.or(width),
        adapter_kernel: given.adapter_kernel.or(kernel),
        num_frames: given.num_frames.or(Some(8)),
        ..given
    }
}

/// What the reference's scripts do not set.
fn common(given: Hyper) -> Hyper {
    let rate = given.learning_rate.is_none().then_some(1e-3);
    // Few epochs are not all of the warm-up.
    let half = given
        .epochs
        .map_or(f64::INFINITY, |all| f64::from(all) / 2.0);
    let warmup = given.warmup_share.is_none().then_some(half.min(2.0));
    Hyper {
        base_learning_rate: given.base_learning_rate.or(rate),
        weight_decay: given.weight_decay.or(Some(1e-2)),
        warmup_epochs: given.warmup_epochs.or(warmup),
        dropout: given.dropout.or(Some(0.5)),
        ..given
    }
}

#[cfg(test)]
mod tests;
