//! Shares of a tenant's limit that each of several processes may grant: pure.
//!
//! Invariant: never awaits, reads a clock or does I/O. While the demands stay as they are, all processes together grant no more than the limit; every one
//! of them may grant at least the limit divided by twice their number, so that a tenant which changes over to another process is not refused there.

/// The part of `limit` that the process with the demand at `own` may grant, where `demands` are what a tenant asked of each process in a second.
///
/// The limit is shared out max-min fairly: whoever asks for less than an equal share gets that, and the others share what is left. What nobody asks for
/// is shared out equally.
pub(super) fn share(limit: f64, demands: &[f64], own: usize) -> f64 {
    let count = demands.len().max(1) as f64;
    let Some(&asked) = demands.get(own) else {
        return limit / (2.0 * count);
    };
    let level = level(limit, demands);
    let free = (limit - demands.iter().sum::<f64>()).max(0.0) / count;
    (asked.min(level) + free).max(limit / (2.0 * count))
}

/// The largest amount that anybody is granted.
fn level(limit: f64, demands: &[f64]) -> f64 {
    let mut sorted = demands.to_vec();
    sorted.sort_by(f64::total_cmp);
    let mut left = limit;
    for (place, asked) in sorted.iter().enumerate() {
        let equal = left / (sorted.len() - place) as f64;
        if *asked >= equal {
            return equal;
        }
        left -= asked;
    }
    f64::INFINITY
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn one_process_grants_all() {
        assert_eq!(share(100.0, &[5.0], 0), 100.0);
        assert_eq!(share(100.0, &[500.0], 0), 100.0);
        assert_eq!(share(100.0, &[500.0, 0.0, 0.0], 0), 100.0);
    }

    #[test]
    fn an_idle_process_may_grant_half_of_an_equal_share() {
        assert_eq!(share(90.0, &[500.0, 0.0, 0.0], 2), 15.0);
    }

    #[test]
    fn who_asks_for_little_gets_it_and_the_others_share_the_rest() {
        let demands = [10.0, 500.0, 500.0];
        assert_eq!(share(100.0, &demands, 1), 45.0);
        // As much as it asks for, and room for more.
        assert!((share(100.0, &demands, 0) - 100.0 / 6.0).abs() < 1e-9);
    }

    proptest! {
        #[test]
        fn all_together_grant_the_limit_or_what_is_asked_for(
            limit in 1.0f64..1e6,
            demands in prop::collection::vec(0.0f64..1e6, 1..12),
        ) {
            let shares: Vec<f64> = (0..demands.len()).map(|own| share(limit, &demands, own)).collect();
            let granted: f64 = shares.iter().zip(&demands).map(|(share, asked)| share.min(*asked)).sum();
            let asked: f64 = demands.iter().sum();
            prop_assert!((granted - asked.min(limit)).abs() <= 1e-6 * limit, "{granted} of {limit}");
            let least = limit / (2.0 * demands.len() as f64);
            prop_assert!(shares.iter().all(|share| *share >= least - 1e-9));
        }
    }
}
