//! Searches: the points that are tried, how long each round trains, and which points go on.
//!
//! Invariant: pure; equal submissions try equal points, and equal outcomes give equal rankings, so that a sweep that is interrupted goes on as it would have.

mod drive;
mod submit;

use std::cmp::Ordering;

use uuid::Uuid;

use crate::ids::SweepId;
use crate::metadata::{SweepOutcome, SweepPoint, SweepProgress, SweepSpec};
use crate::rng;
use crate::spec::{HyperParameters, Invalid, JobState};

/// Sweeps that a tenant may have under way.
pub(super) const UNFINISHED: u32 = 4;
/// Jobs of a sweep that are queued or under way at a time: more would only wait, and take the tenant's places.
pub(super) const AT_A_TIME: usize = 4;
/// Most shapes, learning rates and seeds of a sweep, and most points.
const MOST: [(&str, usize); 4] = [
    ("shapes", 64),
    ("learning_rates", 64),
    ("seeds", 32),
    ("points", 256),
];

/// The points of a grid, or so many of them that are drawn at random; 0 means all.
///
/// # Errors
/// Names the list that is empty or too long.
pub fn points(
    (shapes, rates): (usize, &[f64]),
    random: usize,
    seed: u64,
) -> Result<Vec<SweepPoint>, Invalid> {
    at_most(0, shapes)?;
    if shapes == 0 {
        return Err(Invalid::new("shapes", "expected at least one"));
    }
    at_most(1, rates.len())?;
    let rates: Vec<Option<f64>> = match rates {
        [] => vec![None],
        rates => rates.iter().copied().map(Some).collect(),
    };
    let mut all: Vec<SweepPoint> = (0..shapes)
        .flat_map(|shape| {
            let point = move |learning_rate| SweepPoint {
                shape,
                learning_rate,
            };
            rates.iter().copied().map(point)
        })
        .collect();
    if random > 0 && random < all.len() {
        // Those with the smallest draws, in the order of the grid.
        let draw = |place: usize| rng::splitmix64(seed ^ rng::splitmix64(place as u64));
        let mut drawn: Vec<usize> = (0..all.len()).collect();
        drawn.sort_by_key(|place| draw(*place));
        drawn.truncate(random);
        drawn.sort_unstable();
        all = drawn.into_iter().map(|place| all[place]).collect();
    }
    at_most(3, all.len())?;
    Ok(all)
}

fn at_most(list: usize, count: usize) -> Result<(), Invalid> {
    let (field, most) = MOST[list];
    if count > most {
        let problem = format!("expected at most {most}, got {count}");
        return Err(Invalid::new(field, problem));
    }
    Ok(())
}

/// Checks what is the same for all points.
///
/// # Errors
/// Names the first field that contradicts another or is out of range.
pub(super) fn check(spec: &SweepSpec) -> Result<(), Invalid> {
    let refused = |field, problem: String| Err(Invalid::new(field, problem));
    at_most(2, spec.seeds.len())?;
    if spec.seeds.is_empty() {
        return refused("seeds", "expected at least one".into());
    }
    let mut seeds = spec.seeds.clone();
    seeds.sort_unstable();
    let twice = seeds.windows(2).find(|pair| pair[0] == pair[1]);
    if let Some(twice) = twice.and_then(|pair| pair.first()) {
        return refused(
            "seeds",
            format!("expected different ones, got {twice} twice"),
        );
    }
    let hyper = &spec.hyper_parameters;
    let has_rate = hyper.learning_rate.is_some() || hyper.base_learning_rate.is_some();
    if has_rate && spec.points.iter().any(|own| own.learning_rate.is_some()) {
        let problem = "give learning rates as points or as a hyper-parameter, not both";
        return refused("learning_rates", problem.into());
    }
    for (field, is_given) in [
        ("seed", hyper.seed.is_some()),
        ("parent", hyper.parent.is_some()),
    ] {
        if is_given {
            return refused(field, "a sweep's jobs have their own".into());
        }
    }
    if spec.halving == 1 || spec.halving > 16 {
        let got = spec.halving;
        return refused("halving", format!("expected 0 or 2 to 16, got {got}"));
    }
    let rounds = rounds(spec.points.len(), spec.halving);
    if rounds > 1 {
        let least = u64::from(spec.halving).pow(rounds - 1);
        let epochs = u64::from(hyper.epochs.unwrap_or(0));
        if epochs < least {
            let problem = format!(
                "{rounds} rounds of halving need at least {least} epochs in the last one, which has to be said; got {epochs}"
            );
            return refused("epochs", problem);
        }
    }
    Ok(())
}

/// Rounds of a sweep of so many points: the last one has fewer points than `halving`.
pub fn rounds(points: usize, halving: u32) -> u32 {
    let factor = halving as usize;
    let mut left = points;
    let mut rounds = 1;
    while factor > 1 && left >= factor {
        left = left.div_ceil(factor);
        rounds += 1;
        if left == 1 {
            break;
        }
    }
    rounds
}

/// Hyper-parameters of a job: earlier rounds train fewer epochs under smaller budgets, and only the last one looks at the test split.
pub(super) fn hyper_parameters(
    spec: &SweepSpec,
    round: u32,
    (point, seed): (usize, u64),
) -> HyperParameters {
    let mut hyper = spec.hyper_parameters.clone();
    let left = rounds(spec.points.len(), spec.halving).saturating_sub(round + 1);
    let factor = u64::from(spec.halving).max(1).pow(left);
    if let Some(epochs) = &mut hyper.epochs {
        *epochs = u32::try_from(u64::from(*epochs) / factor)
            .unwrap_or(u32::MAX)
            .max(1);
    }
    // Budgets are those of the last round.
    for budget in [
        &mut hyper.max_steps,
        &mut hyper.max_seconds,
        &mut hyper.max_clip_frames,
    ] {
        *budget = budget.map(|own| (own / factor).max(1));
    }
    // A warm-up in epochs shrinks with them.
    if let Some(warmup) = &mut hyper.warmup_epochs {
        *warmup /= factor as f64;
    }
    let point = spec.points.get(point);
    if let Some(rate) = point.and_then(|own| own.learning_rate) {
        hyper.learning_rate = Some(rate);
    }
    hyper.seed = Some(seed);
    if left > 0 {
        hyper.selection.get_or_insert_default().evaluate_test = Some(false);
    }
    hyper
}

/// The jobs of a round that were not submitted yet, each by its point and seed: seeds of a point follow one another.
pub(super) fn missing(spec: &SweepSpec, progress: &SweepProgress) -> Vec<(usize, u64)> {
    let is_there = |point: usize, seed: u64| {
        let mut jobs = progress.jobs.iter();
        jobs.any(|own| (own.round, own.point, own.seed) == (progress.round, point, seed))
    };
    let points = progress.points.iter();
    let all = points.flat_map(|point| spec.seeds.iter().map(move |seed| (*point, *seed)));
    all.filter(|(point, seed)| !is_there(*point, *seed))
        .collect()
}

/// What came of a point in the newest round that it took part in.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Outcome {
    /// The round, from 0.
    pub round: u32,
    /// Jobs that succeeded and were measured on a validation split.
    pub succeeded: u32,
    /// Jobs that ended otherwise.
    pub failed: u32,
    /// Mean accuracy on the validation split over the seeds.
    pub top1: f64,
    /// Standard deviation of the accuracy over the seeds; 0 of one.
    pub spread: f64,
    /// Smallest and largest accuracy.
    pub range: (f64, f64),
    /// Mean loss on the validation split.
    pub loss: f64,
    /// Trainable parameters.
    pub parameters: u64,
}

/// What came of a point so far.
pub fn outcome(progress: &SweepProgress, point: usize) -> Outcome {
    let own = progress.jobs.iter().filter(|own| own.point == point);
    let round = own.clone().map(|own| own.round).max().unwrap_or(0);
    let ended: Vec<SweepOutcome> = own
        .filter(|own| own.round == round)
        .filter_map(|own| own.outcome)
        .collect();
    let good: Vec<&SweepOutcome> = ended
        .iter()
        .filter(|own| own.state == JobState::Succeeded && !own.is_unmeasured)
        .collect();
    let count = good.len() as f64;
    let mean = |of: fn(&SweepOutcome) -> f64| match good.len() {
        0 => 0.0,
        _ => good.iter().map(|own| of(own)).sum::<f64>() / count,
    };
    let top1 = mean(|own| own.top1);
    let squares: f64 = good.iter().map(|own| (own.top1 - top1).powi(2)).sum();
    let all = good.iter().map(|own| own.top1);
    let range = all.fold((1.0_f64, 0.0_f64), |range, own| {
        (range.0.min(own), range.1.max(own))
    });
    Outcome {
        round,
        succeeded: u32::try_from(good.len()).unwrap_or(u32::MAX),
        failed: u32::try_from(ended.len() - good.len()).unwrap_or(u32::MAX),
        top1,
        spread: match good.len() {
            0 | 1 => 0.0,
            _ => (squares / (count - 1.0)).sqrt(),
        },
        range: match good.len() {
            0 => (0.0, 0.0),
            _ => range,
        },
        loss: mean(|own| own.loss),
        parameters: good.first().map_or(0, |own| own.parameters),
    }
}

/// Points in the order of their outcomes, the best first: those of later rounds, then by accuracy, loss, size and place.
pub fn ranked(spec: &SweepSpec, progress: &SweepProgress) -> Vec<usize> {
    let outcomes: Vec<Outcome> = (0..spec.points.len())
        .map(|point| outcome(progress, point))
        .collect();
    let mut order: Vec<usize> = (0..spec.points.len()).collect();
    order.sort_by(|one, other| compared(&outcomes[*one], &outcomes[*other]));
    order
}

fn compared(one: &Outcome, other: &Outcome) -> Ordering {
    let has_any = |own: &Outcome| own.succeeded > 0;
    (has_any(other).cmp(&has_any(one)))
        .then(other.round.cmp(&one.round))
        .then(other.top1.total_cmp(&one.top1))
        .then(one.loss.total_cmp(&other.loss))
        .then(one.parameters.cmp(&other.parameters))
}

/// The points of the round after one whose jobs have all ended; `None` when it was the last, or nothing succeeded.
pub(super) fn survivors(spec: &SweepSpec, progress: &SweepProgress) -> Option<Vec<usize>> {
    if progress.round + 1 >= rounds(spec.points.len(), spec.halving) {
        return None;
    }
    let count = progress.points.len().div_ceil(spec.halving.max(2) as usize);
    let order = ranked(spec, progress).into_iter();
    let mut left: Vec<usize> = order
        .filter(|point| progress.points.contains(point))
        .filter(|point| outcome(progress, *point).succeeded > 0)
        .take(count)
        .collect();
    left.sort_unstable();
    (!left.is_empty()).then_some(left)
}

/// The id of the request that makes a part of a sweep: the same one whoever asks, so that nothing is made twice.
pub(super) fn request(sweep: SweepId, what: &str) -> Uuid {
    use sha2::{Digest as _, Sha256};
    let mut sha256 = Sha256::new();
    sha256.update(sweep.uuid().as_bytes());
    sha256.update(what);
    let digest = sha256.finalize();
    let (bytes, _) = digest.split_at(16);
    let bytes = bytes.first_chunk().copied().unwrap_or_default();
    Uuid::from_bytes(bytes)
}

#[cfg(test)]
mod tests;
