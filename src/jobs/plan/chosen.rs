//! What a job chose by itself, and why, in words for its owner.

use super::{DROPOUT_FROM, EPOCHS, Plan, STEPS};
use crate::spec::{AdapterConfig, HyperParameters};

impl Plan {
    /// Returns what was chosen for a task with these adapters because it was not submitted, each with its reason; `None` when nothing was.
    pub fn chosen(&self, submitted: &HyperParameters, adapter: &AdapterConfig) -> Option<String> {
        let mut chosen = Vec::new();
        if submitted.epochs.is_none() {
            let steps = self.steps_per_epoch() * u64::from(self.epochs);
            let (least, most) = EPOCHS;
            chosen.push(format!(
                "{} epochs, {steps} steps: about {STEPS} within {least} to {most} epochs",
                self.epochs
            ));
        }
        if submitted.learning_rate.is_none() && submitted.base_learning_rate.is_none() {
            let of = match (adapter.has_sites(), adapter.head.is_mean()) {
                (true, true) => "adapters under the paper's head",
                (false, true) => "a linear probe",
                (_, false) => "a head that reads every frame",
            };
            chosen.push(format!(
                "learning rate {}: that of {of}",
                self.learning_rate
            ));
        }
        if submitted.warmup_share.is_none() && submitted.warmup_epochs.is_none() {
            let steps = self.warmup_steps();
            chosen.push(format!("warm-up {steps} steps: a tenth of all"));
        }
        if submitted.dropout.is_none() {
            chosen.push(match self.dropout > 0.0 {
                true => format!("dropout {}: from {DROPOUT_FROM} clips on", self.dropout),
                false => format!("no dropout: fewer than {DROPOUT_FROM} clips"),
            });
        }
        if chosen.is_empty() {
            return None;
        }
        let (clips, steps) = (self.clips, self.steps_per_epoch());
        let (fewest, most) = (clips / steps, clips.div_ceil(steps));
        let size = match fewest == most {
            true => format!("of {most} clips"),
            false => format!("of {fewest} or {most} clips"),
        };
        let noun = if steps == 1 { "step" } else { "steps" };
        Some(format!(
            "chosen for {clips} training clips, whose epochs have {steps} {noun} {size}: {}",
            chosen.join("; ")
        ))
    }
}
