//! Heads without adapters that a job tries beside its adapters, and which of all are published.
//!
//! Invariant: pure; of equally good ones the cheapest is chosen, and every head without adapters is cheaper than adapters.

use std::num::NonZeroU16;
use std::sync::Arc;

use super::plan::Plan;
use super::selection::Look;
use crate::model::AdapterSet;
use crate::spec::{AdapterConfig, BestBy, Head, HyperParameters, Publish, Selection};

/// What came of the heads that a job tried.
#[derive(Debug, Default)]
pub(super) struct Tried {
    /// Each head whose training gave numbers, in the order in which they were trained.
    pub(super) compared: Vec<Compared>,
    /// The best of them.
    pub(super) best: Option<Best>,
}

/// The best evaluation of a head without adapters.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Compared {
    pub(super) head: Head,
    /// Trainable parameters.
    pub(super) parameters: u64,
    pub(super) look: Look,
}

/// The best head that was tried.
#[derive(Debug, Clone)]
pub(super) struct Best {
    /// Weights of its best evaluation.
    pub(super) set: Arc<AdapterSet>,
    pub(super) course: Course,
}

/// How the training of a head went.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Course {
    /// The best evaluation.
    pub(super) look: Look,
    /// All evaluations.
    pub(super) looks: Vec<Look>,
    /// Mean loss of each epoch.
    pub(super) losses: Vec<f64>,
    pub(super) steps_per_epoch: u64,
}

/// The heads that are tried on clips of so many frames, from features as the head `of` reads them. A linear probe is not tried beside itself: it is what a
/// task without adapters trains.
pub(super) fn heads(of: Head, num_frames: NonZeroU16, has_sites: bool) -> Vec<Head> {
    let all = [
        Head::Mean,
        Head::Frames(num_frames),
        Head::Conv,
        Head::Attention(num_frames),
    ];
    let is_held = |head: &Head| match of {
        Head::Mean => head.is_mean(),
        Head::Frames(_) | Head::Conv | Head::Attention(_) => {
            of.reads_patches() || !head.reads_patches()
        }
    };
    let is_other = |head: &Head| has_sites || !head.is_mean();
    let tried = all.into_iter().filter(is_held);
    tried.filter(is_other).collect()
}

/// No adapters below this head.
pub(super) fn alone(head: Head) -> AdapterConfig {
    AdapterConfig {
        head,
        ..AdapterConfig::LINEAR_PROBE
    }
}

/// How a head is trained beside a job's own plan: as a job of a task with this head alone would be by default, with the job's loss, decay and choice of the
/// best, and an evaluation after every epoch.
pub(super) fn plan(own: &Plan, head: Head) -> Plan {
    let hyper = own.hyper_parameters();
    let submitted = HyperParameters {
        weight_decay: hyper.weight_decay,
        clip_norm: hyper.clip_norm,
        label_smoothing: hyper.label_smoothing,
        class_weights: hyper.class_weights,
        balanced_sampling: hyper.balanced_sampling,
        selection: Some(Selection {
            eval_every: Some(1),
            best_by: Some(own.selection.best_by),
            publish: Some(Publish::Best),
            ..Selection::default()
        }),
        ..HyperParameters::default()
    };
    Plan::new(&submitted, own.clips, &alone(head), own.seed)
        .with_labels(&submitted, own.labels as usize)
}

/// Whether an evaluation is so much better than that of something cheaper that it is worth its price.
pub(super) fn is_worth(look: &Look, cheaper: &Look, by: BestBy) -> bool {
    match by {
        BestBy::Top1 => look.top1 > cheaper.top1,
        BestBy::Loss => look.loss < cheaper.loss,
        BestBy::Map => look.map > cheaper.map,
    }
}

/// Whether the best head that was tried is published in place of a job's own weights: when it is as good and cheaper, or better. Each has an evaluation and
/// a number of parameters.
pub(super) fn replaces(
    (best, own): ((&Look, u64), (&Look, u64)),
    has_sites: bool,
    by: BestBy,
) -> bool {
    let is_cheaper = has_sites || best.1 < own.1;
    match is_cheaper {
        true => !is_worth(own.0, best.0, by),
        false => is_worth(best.0, own.0, by),
    }
}

/// The best of some heads: the cheapest of those with the best evaluation.
pub(super) fn best_of(compared: &[Compared], by: BestBy) -> Option<usize> {
    let mut order: Vec<usize> = (0..compared.len()).collect();
    order.sort_by_key(|place| compared[*place].parameters);
    order.into_iter().reduce(|best, next| {
        match is_worth(&compared[next].look, &compared[best].look, by) {
            true => next,
            false => best,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compared(head: Head, parameters: u64, top1: f64, loss: f64) -> Compared {
        let step = 10;
        Compared {
            head,
            parameters,
            look: Look {
                step,
                loss,
                top1,
                map: None,
            },
        }
    }

    #[test]
    fn of_equally_good_heads_the_cheapest_is_the_best() {
        let eight = NonZeroU16::MIN.saturating_add(7);
        let frames = |top1, loss| compared(Head::Frames(eight), 500, top1, loss);
        let conv = |top1, loss| compared(Head::Conv, 300, top1, loss);
        let attention = |top1, loss| compared(Head::Attention(eight), 900, top1, loss);
        let of = |list: &[Compared], by| best_of(list, by);
        let equal = [frames(0.9, 0.1), conv(0.9, 0.3), attention(0.9, 0.05)];
        assert_eq!(of(&equal, BestBy::Top1), Some(1));
        assert_eq!(of(&equal, BestBy::Loss), Some(2));
        let better = [frames(0.91, 0.5), conv(0.9, 0.3), attention(0.91, 0.05)];
        assert_eq!(of(&better, BestBy::Top1), Some(0));
        assert_eq!(of(&[], BestBy::Top1), None);
    }

    #[test]
    fn of_equals_a_head_replaces_adapters_and_no_cheaper_probe() {
        let look = |top1| Look {
            top1,
            ..Look::default()
        };
        let (good, better) = (&look(0.8), &look(0.9));
        let of = |best, own, has_sites| replaces((best, own), has_sites, BestBy::Top1);
        // An attention head may have more weights than adapters, which take a pass of the backbone.
        assert!(of((good, 900), (good, 500), true));
        assert!(!of((good, 100), (better, 500), true));
        assert!(of((better, 900), (good, 500), true));
        // A task without adapters trains a probe.
        assert!(!of((good, 900), (good, 66), false));
        assert!(of((better, 900), (good, 66), false));
        assert!(!of((good, 900), (better, 66), false));
    }

    #[test]
    fn class_tokens_alone_hold_no_attention_and_a_probe_is_not_tried_beside_itself() {
        let frames = NonZeroU16::MIN.saturating_add(3);
        let all = heads(Head::Attention(frames), frames, true);
        let (probe, others) = (Head::Mean, [Head::Frames(frames), Head::Conv]);
        assert_eq!(all, [probe, others[0], others[1], Head::Attention(frames)]);
        assert_eq!(heads(Head::Frames(frames), frames, true), all[..3]);
        assert_eq!(heads(Head::Frames(frames), frames, false), others);
        assert_eq!(
            heads(Head::Mean, frames, true),
            [probe],
            "a mean holds no frames"
        );
    }

    #[test]
    fn a_head_that_is_tried_trains_as_a_task_of_its_own_would() {
        let submitted = HyperParameters {
            epochs: Some(3),
            learning_rate: Some(0.5),
            label_smoothing: Some(0.1),
            selection: Some(Selection::default()),
            ..HyperParameters::default()
        };
        let own = Plan::new(&submitted, 40, &AdapterConfig::LINEAR_PROBE, 9);
        let head = plan(&own, Head::Conv);
        let alone = Plan::new(&HyperParameters::default(), 40, &alone(Head::Conv), 9);
        assert_eq!((head.epochs, head.seed), (alone.epochs, 9));
        assert_eq!(head.learning_rate, alone.learning_rate);
        assert_eq!(head.label_smoothing, 0.1);
        assert_eq!(head.selection.eval_every, 1);
    }
}
