//! Runs forwards or steps for some time, and what they took.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::subject::Subject;
use super::{Args, Error, round};
use crate::model::adamw::{self, AdamW};
use crate::model::{self, Inference, Keep, Step, TrainableSet, TrainingStep, usage};

/// What runs took.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Timing {
    pub(super) clips_per_s: f64,
    median_ms: f64,
    min_ms: f64,
    p99_ms: f64,
    runs: usize,
    /// Page faults of the median run.
    faults_per_run: u64,
}

/// Timing, and the logits of the first run.
pub(super) struct Measured {
    pub(super) timing: Timing,
    pub(super) logits: Vec<Vec<f32>>,
}

/// Forwards of one batch.
pub(super) fn infer(subject: &Subject, args: &Args) -> Result<Measured, Error> {
    repeat(subject.clips.len(), args, || {
        let backbone = Arc::clone(&subject.backbone);
        let mut batch = Inference::new(backbone, subject.clips.clone(), subject.segments())?;
        while batch.advance()? == Step::More {}
        batch.into_logits()
    })
}

/// Steps of one set: forward, backward, update.
pub(super) fn train(subject: &Subject, args: &Args) -> Result<Measured, Error> {
    let set = TrainableSet::new(&subject.exact)?;
    let mut optimizer = AdamW::new(set.parameters(), adamw::Config::default())?;
    let classes = set.classes();
    let labels: Vec<u32> = (0..subject.clips.len())
        .map(|clip| (clip % classes) as u32)
        .collect();
    let keep = if args.recompute {
        Keep::Recompute
    } else {
        Keep::All
    };
    repeat(subject.clips.len(), args, || {
        let (backbone, clips) = (Arc::clone(&subject.backbone), subject.clips.clone());
        let mut step = TrainingStep::new(backbone, &set, clips, &labels, None, keep)?;
        while step.advance()? == Step::More {}
        let found = step.finish()?;
        optimizer.step(set.parameters(), &found.gradients, 1e-4)?;
        Ok(found.logits)
    })
}

/// Runs once to warm up, then as often as asked, or until the time is over and at least three times.
fn repeat(
    clips: usize,
    args: &Args,
    mut run: impl FnMut() -> Result<Vec<Vec<f32>>, model::Error>,
) -> Result<Measured, Error> {
    let logits = run()?;
    let (mut times, mut faults) = (Vec::new(), Vec::new());
    let begun = Instant::now();
    let more = |runs: usize| match args.runs {
        Some(wanted) => runs < wanted.get(),
        None => runs < 3 || begun.elapsed().as_secs_f64() < args.seconds,
    };
    while more(times.len()) {
        let (before, start) = (usage().faults, Instant::now());
        run()?;
        times.push(start.elapsed());
        faults.push(usage().faults - before);
    }
    times.sort_unstable();
    faults.sort_unstable();
    let ms = |time: Duration| round(time.as_secs_f64() * 1e3, 2.0);
    let median = times[times.len() / 2];
    let timing = Timing {
        clips_per_s: round(clips as f64 / median.as_secs_f64(), 4.0),
        median_ms: ms(median),
        min_ms: ms(times[0]),
        p99_ms: ms(times[(times.len() * 99 / 100).min(times.len() - 1)]),
        runs: times.len(),
        faults_per_run: faults[faults.len() / 2],
    };
    Ok(Measured { timing, logits })
}
