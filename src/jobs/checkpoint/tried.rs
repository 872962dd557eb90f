//! What came of heads without adapters, as a checkpoint keeps it beside the best one's weights.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{LookBits, bits_of, look_of};
use crate::jobs::heads::{Best, Compared, Course, Tried};
use crate::model::AdapterSet;
use crate::spec::{AdapterConfig, Head};

/// The heads, and how the training of the best one went.
#[derive(Serialize, Deserialize)]
pub(super) struct Record {
    /// Head, parameters and best evaluation of each.
    compared: Vec<(Head, u64, LookBits)>,
    best: Option<BestRecord>,
}

#[derive(Serialize, Deserialize)]
struct BestRecord {
    adapter: AdapterConfig,
    look: LookBits,
    looks: Vec<LookBits>,
    losses: Vec<u64>,
    steps_per_epoch: u64,
}

impl Record {
    pub(super) fn of(tried: &Tried) -> Self {
        let compared = tried.compared.iter();
        let best = tried.best.as_ref().map(|Best { set, course }| BestRecord {
            adapter: set.config(),
            look: bits_of(&course.look),
            looks: course.looks.iter().map(bits_of).collect(),
            losses: course.losses.iter().map(|loss| loss.to_bits()).collect(),
            steps_per_epoch: course.steps_per_epoch,
        });
        Self {
            compared: compared
                .map(|own| (own.head, own.parameters, bits_of(&own.look)))
                .collect(),
            best,
        }
    }

    /// The shape of the best one; `None` when there is none.
    pub(super) fn adapter(&self) -> Option<AdapterConfig> {
        self.best.as_ref().map(|best| best.adapter)
    }

    /// What it is of, with the best one's weights.
    pub(super) fn tried(&self, set: Option<AdapterSet>) -> Tried {
        let compared = self.compared.iter();
        let best = self.best.as_ref().zip(set).map(|(best, set)| Best {
            set: Arc::new(set),
            course: Course {
                look: look_of(&best.look),
                looks: best.looks.iter().map(look_of).collect(),
                losses: best.losses.iter().copied().map(f64::from_bits).collect(),
                steps_per_epoch: best.steps_per_epoch,
            },
        });
        Tried {
            compared: compared
                .map(|(head, parameters, look)| Compared {
                    head: *head,
                    parameters: *parameters,
                    look: look_of(look),
                })
                .collect(),
            best,
        }
    }
}
