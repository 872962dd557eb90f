//! The learning rate: linear warm-up, then half a cosine. Pure.

/// Rate of step `step` (from 0) of `total`: rises over the first `warmup_share` of the steps to `peak`, then falls along a cosine to 0.
///
/// As the reference: the warm-up gives step i the share i / warm-up, so the first step of a schedule with warm-up has rate 0.
pub fn learning_rate(step: u64, total: u64, warmup_share: f64, peak: f64) -> f64 {
    let warmup = (warmup_share.clamp(0.0, 1.0) * total.max(1) as f64).floor();
    after_warmup(step, total, warmup as u64, peak)
}

/// Rate of step `step` (from 0) of `total`, of which the first `warmup` rise; see [`learning_rate`].
pub fn after_warmup(step: u64, total: u64, warmup: u64, peak: f64) -> f64 {
    let (step, total, warmup) = (step as f64, total.max(1) as f64, warmup as f64);
    if step < warmup {
        return peak * step / warmup;
    }
    let along = ((step - warmup) / (total - warmup).max(1.0)).clamp(0.0, 1.0);
    peak * 0.5 * (1.0 + (std::f64::consts::PI * along).cos())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_rises_to_its_peak_and_falls_to_nothing() {
        let rate = |step| learning_rate(step, 100, 0.2, 1e-3);
        assert_eq!(rate(0), 0.0);
        assert!((rate(10) - 5e-4).abs() < 1e-12);
        assert_eq!(rate(20), 1e-3);
        assert!((rate(60) - 5e-4).abs() < 1e-12);
        assert!((20..99).all(|step| rate(step) > rate(step + 1)));
        assert!(rate(99) < 2e-6);
        assert!(rate(1000).abs() < 1e-12);
    }

    #[test]
    fn a_schedule_without_warm_up_begins_at_its_peak() {
        assert_eq!(learning_rate(0, 10, 0.0, 0.5), 0.5);
        assert_eq!(learning_rate(0, 0, 0.0, 0.5), 0.5);
        assert_eq!(learning_rate(0, 1, 0.1, 0.5), 0.5);
    }
}
