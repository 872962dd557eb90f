//! Which of several tasks a request is for: each as often, or few of them most of the time.
//!
//! Invariant: every task can be chosen, and the shares depend on the popularity and the number of tasks alone.

use std::fmt;
use std::str::FromStr;

use super::arrivals::unit;
use crate::rng::Stream;

/// How requests spread over the tasks of a tenant.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Popularity {
    /// Every task equally often.
    Uniform,
    /// The task of rank k in proportion to 1 / k to this power.
    Zipf(f64),
}

impl FromStr for Popularity {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "uniform" {
            return Ok(Self::Uniform);
        }
        let power = text.strip_prefix("zipf:").map(str::parse::<f64>);
        match power {
            Some(Ok(power)) if (0.0..=16.0).contains(&power) => Ok(Self::Zipf(power)),
            _ => Err("expected uniform, or zipf: and a power from 0 to 16".to_owned()),
        }
    }
}

impl fmt::Display for Popularity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uniform => f.write_str("uniform"),
            Self::Zipf(power) => write!(f, "zipf:{power}"),
        }
    }
}

/// A chooser of one task among many.
#[derive(Debug, Clone)]
pub(super) struct Choice {
    /// Share of the requests for this task and those before it.
    shares: Vec<f64>,
}

impl Choice {
    /// A choice among `tasks` tasks, at least one.
    pub(super) fn new(popularity: Popularity, tasks: usize) -> Self {
        let weight = |rank: usize| match popularity {
            Popularity::Uniform => 1.0,
            Popularity::Zipf(power) => (rank as f64).powf(-power),
        };
        let mut sum = 0.0;
        let mut shares: Vec<f64> = Vec::with_capacity(tasks.max(1));
        for rank in 1..=tasks.max(1) {
            sum += weight(rank);
            shares.push(sum);
        }
        for share in &mut shares {
            *share /= sum;
        }
        Self { shares }
    }

    /// Draws the next request's task, an index below the number of tasks.
    pub(super) fn pick(&self, random: &mut Stream) -> usize {
        let drawn = unit(random);
        let found = self.shares.partition_point(|&share| share <= drawn);
        found.min(self.shares.len() - 1)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn counts(popularity: Popularity, tasks: usize, draws: usize) -> Vec<f64> {
        let choice = Choice::new(popularity, tasks);
        let mut random = Stream::new(5, "popularity");
        let mut counts = vec![0.0; tasks];
        for _ in 0..draws {
            counts[choice.pick(&mut random)] += 1.0;
        }
        counts
    }

    proptest! {
        #[test]
        fn a_choice_is_always_one_of_the_tasks(tasks in 1_usize..200, power in 0.0_f64..4.0, seed: u64) {
            let choice = Choice::new(Popularity::Zipf(power), tasks);
            let mut random = Stream::new(seed, "popularity");
            for _ in 0..200 {
                prop_assert!(choice.pick(&mut random) < tasks);
            }
        }

        #[test]
        fn what_is_printed_is_read_again(power in 0.0_f64..16.0) {
            for popularity in [Popularity::Uniform, Popularity::Zipf(power)] {
                prop_assert_eq!(popularity.to_string().parse::<Popularity>(), Ok(popularity));
            }
        }
    }

    #[test]
    fn zipf_prefers_low_ranks_in_proportion_and_uniform_prefers_none() {
        let even = counts(Popularity::Uniform, 10, 100_000);
        assert!(
            even.iter()
                .all(|&count| (9_300.0..10_700.0).contains(&count))
        );
        let zipf = counts(Popularity::Zipf(1.0), 100, 100_000);
        assert!((zipf[0] / zipf[1] - 2.0).abs() < 0.2, "{zipf:?}");
        assert!((zipf[0] / zipf[9] - 10.0).abs() < 1.5, "{zipf:?}");
        assert_eq!(
            counts(Popularity::Zipf(0.0), 4, 1000),
            counts(Popularity::Uniform, 4, 1000)
        );
    }

    #[test]
    fn a_popularity_that_is_none_is_refused() {
        for wrong in [
            "", "zipf", "zipf:", "zipf:-1", "zipf:nan", "zipf:x", "Uniform",
        ] {
            assert!(wrong.parse::<Popularity>().is_err(), "{wrong}");
        }
    }
}
