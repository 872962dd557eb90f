//! When the requests of an open loop are sent: an endless schedule of times after the start.
//!
//! Invariant: a schedule depends on its kind, its rate and its random stream alone, never on how fast anything answers.

use std::time::Duration;

use crate::rng::Stream;

/// Kinds of open loops.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Arrivals {
    /// Independent requests: exponential gaps.
    Poisson,
    /// Equal gaps.
    Constant,
}

/// The times of an open loop's requests, in order.
#[derive(Debug, Clone)]
pub(super) struct Schedule {
    arrivals: Arrivals,
    /// Mean gap in seconds.
    gap: f64,
    random: Stream,
    /// Time of the last request in seconds.
    last: f64,
}

impl Schedule {
    /// A schedule of `rate` requests a second.
    pub(super) fn new(arrivals: Arrivals, rate: f64, random: Stream) -> Self {
        Self {
            arrivals,
            gap: rate.recip(),
            random,
            last: 0.0,
        }
    }
}

impl Iterator for Schedule {
    type Item = Duration;

    /// The time of the next request after the start; none once it is beyond what a duration holds.
    fn next(&mut self) -> Option<Duration> {
        self.last += match self.arrivals {
            Arrivals::Constant => self.gap,
            // 1 - u is in (0, 1], so that its logarithm is finite.
            Arrivals::Poisson => -(1.0 - unit(&mut self.random)).ln() * self.gap,
        };
        Duration::try_from_secs_f64(self.last).ok()
    }
}

/// A number uniform in [0, 1), with 53 bits.
pub(super) fn unit(random: &mut Stream) -> f64 {
    (random.bits() >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn times(arrivals: Arrivals, rate: f64, seed: u64, count: usize) -> Vec<f64> {
        let schedule = Schedule::new(arrivals, rate, Stream::new(seed, "arrivals"));
        let times = schedule.take(count);
        times.map(|time| time.as_secs_f64()).collect()
    }

    proptest! {
        #[test]
        fn times_never_go_back_and_keep_the_rate(rate in 0.5_f64..2000.0, seed: u64) {
            for arrivals in [Arrivals::Poisson, Arrivals::Constant] {
                let times = times(arrivals, rate, seed, 4000);
                prop_assert!(times.is_sorted());
                let measured = 4000.0 / times[3999];
                // Six deviations of a Poisson count.
                let tolerance = 6.0 / 4000_f64.sqrt();
                prop_assert!((measured / rate - 1.0).abs() < tolerance, "{measured} for {rate}");
            }
        }

        #[test]
        fn equal_seeds_give_equal_times(seed: u64) {
            let one = times(Arrivals::Poisson, 50.0, seed, 100);
            prop_assert_eq!(&one, &times(Arrivals::Poisson, 50.0, seed, 100));
            prop_assert_ne!(one, times(Arrivals::Poisson, 50.0, seed.wrapping_add(1), 100));
        }
    }

    #[test]
    fn gaps_of_a_poisson_process_vary_as_much_as_their_mean() {
        let times = times(Arrivals::Poisson, 10.0, 3, 20_000);
        let gaps: Vec<f64> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
        assert!((variance.sqrt() / mean - 1.0).abs() < 0.05);
        let gaps = super::tests::times(Arrivals::Constant, 8.0, 3, 3);
        assert_eq!(gaps, [0.125, 0.25, 0.375]);
    }
}
