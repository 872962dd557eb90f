//! What a job chose by itself, and why, in words for its owner.

use super::{
    BATCH, DROPOUT_FROM, EPOCHS, Plan, RATE_FACTORS, STEPS, STEPS_OF_LABEL, WIDTH, WIDTH_FACTOR,
    rate_factor, width_factor,
};
use crate::spec::{AdapterConfig, HyperParameters};

impl Plan {
    /// Returns what was chosen for a task with these adapters, on a backbone of so many channels, because it was not submitted: each choice with its reason.
    pub fn chosen(
        &self,
        submitted: &HyperParameters,
        adapter: &AdapterConfig,
        backbone_width: usize,
    ) -> Vec<String> {
        let mut chosen = Vec::new();
        let width = adapter.adapter_width as usize;
        if adapter.has_sites() && width == (backbone_width / 2).max(1) {
            chosen.push(format!(
                "adapters of width {width}: half of the backbone's width ({backbone_width}), as for a task that is created without a width"
            ));
        }
        if submitted.batch_size.is_none() || !self.clips.is_multiple_of(self.batch_size.into()) {
            chosen.push(self.batches(submitted));
        }
        if submitted.epochs.is_none() {
            let steps = self.steps_per_epoch() * u64::from(self.epochs);
            let (least, most) = EPOCHS;
            let wanted = self.wanted_steps();
            let why = match wanted > STEPS {
                true => format!(" ({STEPS_OF_LABEL} for each of {} labels)", self.labels),
                false => String::new(),
            };
            chosen.push(format!(
                "{} epochs, {steps} steps: about {wanted}{why} within {least} to {most} epochs",
                self.epochs
            ));
        }
        if submitted.learning_rate.is_none() && submitted.base_learning_rate.is_none() {
            chosen.push(self.rate(adapter));
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
        let told = chosen.into_iter().map(|own| format!("chosen: {own}"));
        told.collect()
    }

    /// How the clips of an epoch are divided.
    fn batches(&self, submitted: &HyperParameters) -> String {
        let (clips, steps) = (self.clips, self.steps_per_epoch());
        let (fewest, most) = (clips / steps, clips.div_ceil(steps));
        let size = match fewest == most {
            true => format!("{most} clips"),
            false => format!("{fewest} or {most} clips"),
        };
        let noun = if steps == 1 { "step" } else { "steps" };
        let of = match submitted.batch_size {
            None => format!("at most {BATCH}"),
            Some(given) => format!("at most {given}, as submitted,"),
        };
        format!(
            "{steps} {noun} of {size} an epoch: {clips} training clips divided equally into batches of {of} so that no step has far fewer clips than another"
        )
    }

    fn rate(&self, adapter: &AdapterConfig) -> String {
        let of = match (adapter.has_sites(), adapter.head.is_mean()) {
            (true, true) => "adapters under the paper's head",
            (false, true) => "a linear probe",
            (_, false) => "a head that reads every frame",
        };
        let rate = (self.learning_rate * 1e7).round() / 1e7;
        let factor = rate_factor(self.batch_size);
        let scaled = match factor {
            1.0 => String::new(),
            _ if factor == RATE_FACTORS.0 => ", halved for the smaller batch".into(),
            _ if factor == RATE_FACTORS.1 => ", doubled for the larger batch".into(),
            _ => format!(", times the square root of {}/{BATCH}", self.batch_size),
        };
        let width = adapter.adapter_width;
        let has_width = adapter.has_sites() && adapter.head.is_mean();
        let widened = match width_factor(width) {
            _ if !has_width => String::new(),
            1.0 => String::new(),
            WIDTH_FACTOR => format!(", doubled for adapters of width {width}"),
            _ => format!(", times the square root of {WIDTH}/{width} for their width"),
        };
        format!("learning rate {rate}: that of {of} for batches of {BATCH} clips{scaled}{widened}")
    }
}
