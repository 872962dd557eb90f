//! The learning rate: linear warm-up, then half a cosine. Pure.

/// Rate of step `step` (from 0) of `total`: rises over the first `warmup_share` of the steps to `peak`, then falls along a cosine to 0.
///
/// As the reference: the warm-up gives step i the share i / warm-up, so the first step of a schedule with warm-up has rate 0.
pub fn learning_rate(step: u64, total: u64, warmup_share: f64, peak: f64) -> f64 {
    let (step, total) = (step as f64, total.max(1) as f64);
    let warmup = (warmup_share.clamp(0.0, 1.0) * total).floor();
    if step < warmup {
        return peak * step / warmup;
    }
    let along = ((step - warmup) / (total - warmup).max(1.0)).clamp(0.0, 1.0);
    peak * 0.5 * (1.0 + (std::f64::consts::PI * along).cos())
}
