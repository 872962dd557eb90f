//! Runs forwards or steps for some time, and what they took.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::subject::Subject;
use super::{Args, Error, round};
use crate::model::adamw::{self, AdamW};
use crate::model::{self, Inference, Keep, Kept, Step, TrainableSet, TrainingStep, usage};

/// Times of the runs.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Timing {
    pub(super) clips_per_s: f64,
    /// Time of the first run, which is not counted: memory is fresh.
    first_run_ms: f64,
    median_ms: f64,
    min_ms: f64,
    p99_ms: f64,
    runs: usize,
    /// Page faults of the median run.
    faults_per_run: u64,
}

/// A batch of several sets against the same batch of one, run in turns.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Mixed {
    one_set_median_ms: f64,
    /// Time with several sets over time with one.
    sets_over_one: f64,
}

/// A training step's activations.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Memory {
    activations_mib: u64,
    recomputed_blocks: usize,
    recomputed_mlps: usize,
}

/// Timing, and the logits of the first run.
pub(super) struct Measured {
    pub(super) timing: Timing,
    pub(super) logits: Vec<Vec<f32>>,
    pub(super) mixed: Option<Mixed>,
    pub(super) memory: Option<Memory>,
}

/// Forwards of one batch.
pub(super) fn infer(subject: &Subject, args: &Args) -> Result<Measured, Error> {
    let run = |segments| {
        let backbone = Arc::clone(&subject.backbone);
        let mut batch = Inference::new(backbone, subject.clips.clone(), segments)?;
        while batch.advance()? != Step::Done {}
        batch.into_logits()
    };
    let segments = subject.segments();
    let mut ones = Vec::new();
    let is_mixed = segments.len() > 1;
    let mut measured = repeat(subject.clips.len(), args, is_mixed, |is_counted| {
        if !is_counted {
            let start = Instant::now();
            let logits = run(subject.one_segment())?;
            ones.push(start.elapsed());
            return Ok(logits);
        }
        run(segments.clone())
    })?;
    // The first was a warm-up.
    let mut ones = ones.split_off(usize::from(is_mixed));
    ones.sort_unstable();
    measured.mixed = ones.get(ones.len() / 2).map(|&one| Mixed {
        one_set_median_ms: ms(one),
        sets_over_one: round(measured.timing.median_ms / ms(one), 4.0),
    });
    Ok(measured)
}

/// Steps of one set: forward, backward, update.
pub(super) fn train(subject: &Subject, args: &Args) -> Result<Measured, Error> {
    let set = TrainableSet::beside(&subject.exact, &subject.backbone)?;
    let mut optimizer = AdamW::new(set.parameters(), adamw::Config::default())?;
    let classes = set.classes();
    let labels: Vec<u32> = (0..subject.clips.len())
        .map(|clip| (clip % classes) as u32)
        .collect();
    let keep = match (args.recompute, args.keep_mib) {
        (true, _) => Keep::Recompute,
        (false, Some(mib)) => Keep::Within(mib << 20),
        (false, None) => Keep::All,
    };
    let of_clip = |_| {
        (0..args.frames.get())
            .map(|_| Some(Kept::default()))
            .collect()
    };
    let places: Vec<Vec<Option<Kept>>> = match args.kept_tokens {
        true => (0..subject.clips.len()).map(of_clip).collect(),
        false => Vec::new(),
    };
    let mut memory = None;
    let mut measured = repeat(subject.clips.len(), args, false, |_| {
        let (backbone, clips) = (Arc::clone(&subject.backbone), subject.clips.clone());
        let step = TrainingStep::new(backbone, &set, clips, &labels, None, keep)?;
        let mut step = step.keeping(places.clone());
        memory = Some(Memory {
            activations_mib: step.bytes() >> 20,
            recomputed_blocks: step.recomputed_blocks(),
            recomputed_mlps: step.recomputed_mlps(),
        });
        while step.advance()? != Step::Done {}
        let found = step.finish()?;
        optimizer.step(set.parameters(), &found.gradients, 1e-4)?;
        Ok(found.logits)
    })?;
    measured.memory = memory;
    Ok(measured)
}

/// Runs once to warm up, then as often as asked, or until the time is over and at least three times. With `in_turns`, calls `run` with `false` as well
/// each time, for what is compared.
fn repeat(
    clips: usize,
    args: &Args,
    in_turns: bool,
    mut run: impl FnMut(bool) -> Result<Vec<Vec<f32>>, model::Error>,
) -> Result<Measured, Error> {
    let start = Instant::now();
    let logits = run(true)?;
    let first_run_ms = ms(start.elapsed());
    if in_turns {
        run(false)?;
    }
    let (mut times, mut faults) = (Vec::new(), Vec::new());
    let begun = Instant::now();
    let more = |runs: usize| match args.runs {
        Some(wanted) => runs < wanted.get(),
        None => runs < 3 || begun.elapsed().as_secs_f64() < args.seconds,
    };
    while more(times.len()) {
        if in_turns {
            run(false)?;
        }
        let (before, start) = (usage().faults, Instant::now());
        run(true)?;
        times.push(start.elapsed());
        faults.push(usage().faults - before);
    }
    times.sort_unstable();
    faults.sort_unstable();
    let median = times[times.len() / 2];
    let timing = Timing {
        clips_per_s: round(clips as f64 / median.as_secs_f64(), 4.0),
        first_run_ms,
        median_ms: ms(median),
        min_ms: ms(times[0]),
        p99_ms: ms(times[(times.len() * 99 / 100).min(times.len() - 1)]),
        runs: times.len(),
        faults_per_run: faults[faults.len() / 2],
    };
    Ok(Measured {
        timing,
        logits,
        mixed: None,
        memory: None,
    })
}

fn ms(time: Duration) -> f64 {
    round(time.as_secs_f64() * 1e3, 2.0)
}
