//! Classifies every unseen clip of both tenants through the API: each task alone, then both interleaved on the one backbone.
//!
//! Invariant: a task that is alone gets half of the requests in flight that both get together, so that the two phases of a task alone stand for two
//! separate servers under the same load.

use std::net::SocketAddr;
use std::time::Instant;

use futures::{StreamExt, TryStreamExt, stream};

use super::clips::{TRAINING, UNSEEN};
use super::console::Console;
use super::passes::{self, Passes};
use super::train::Trained;
use super::{Error, Party, during, machine};
use crate::proto::v1::{self, classify_request::Source};

/// Requests of one task that are in flight at once.
pub(super) const AT_ONCE: usize = 4;
/// Unseen clips, from the first, that the report shows: pairs that are each other's reversal.
pub(super) const SHOWN: usize = 8;
/// Misses of ST-Adapter, from the first, that the report shows as well.
pub(super) const MISSES: usize = 4;

/// The server's answer for one clip.
pub(super) struct Answer {
    /// The best label.
    pub(super) label: String,
    /// The best label's score.
    pub(super) score: f32,
    /// Indices of the frames that were sampled.
    pub(super) frames: Vec<u32>,
    /// The version that answered, `tasks/…/versions/…`.
    pub(super) version: String,
}

/// Throughput of a phase, and passes of the backbone.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Rate {
    pub(super) clips: usize,
    pub(super) seconds: f64,
    /// Passes that the server's metrics counted meanwhile.
    pub(super) passes: Passes,
    /// The system's load average of the last minute, at the end.
    pub(super) load: Option<f64>,
}

impl Rate {
    /// Clips a second.
    pub(super) fn per_second(self) -> f64 {
        self.clips as f64 / self.seconds.max(1e-9)
    }
}

/// All answers, by party and then by unseen clip.
pub(super) struct Served {
    pub(super) answers: Vec<Vec<Answer>>,
    /// The clips that the report shows, with what the linear probe says of each.
    pub(super) probe: Vec<Vec<(usize, Answer)>>,
    /// Rates of each task alone.
    pub(super) alone: Vec<Rate>,
    /// Rate of both tasks together.
    pub(super) mixed: Rate,
}

impl Served {
    /// Passes that two servers with a backbone each would have counted for the clips of both tasks.
    pub(super) fn separate(&self) -> Passes {
        let all = self.alone.iter().map(|rate| rate.passes);
        all.fold(Passes::default(), Passes::plus)
    }
}

/// A clip to be classified: the party and the unseen clip.
type Question = (usize, usize);

/// Parties, tasks and server that all phases share.
struct Room<'a> {
    parties: &'a [Party],
    tasks: Vec<&'a str>,
    metrics: SocketAddr,
    console: &'a Console,
}

/// Asks about every unseen clip once; the server's metrics are read between the phases.
pub(super) async fn all(
    parties: &[Party],
    trained: &[Trained],
    metrics: SocketAddr,
    console: &Console,
) -> Result<Served, Error> {
    let room = Room {
        parties,
        tasks: trained.iter().map(|t| t.adapters.task.as_str()).collect(),
        metrics,
        console,
    };
    let mut answers: Vec<Vec<Answer>> = parties.iter().map(|_| Vec::new()).collect();
    let mut alone = Vec::new();
    for (party, role) in parties.iter().map(|party| party.role).enumerate() {
        let questions: Vec<Question> = (0..UNSEEN / 2).map(|clip| (party, clip)).collect();
        let name = format!("{} alone", role.tenant);
        let (rate, found) = room.timed(&questions, AT_ONCE, &name).await?;
        alone.push(rate);
        answers[party].extend(found);
    }
    let questions: Vec<Question> = (UNSEEN / 2..UNSEEN)
        .flat_map(|clip| (0..parties.len()).map(move |party| (party, clip)))
        .collect();
    let at_once = AT_ONCE * parties.len();
    let (mixed, found) = room.timed(&questions, at_once, "both together").await?;
    for ((party, _), answer) in questions.iter().zip(found) {
        answers[*party].push(answer);
    }
    let mut probe = Vec::new();
    for ((party, trained), answers) in parties.iter().zip(trained).zip(&answers) {
        let truth = |clip: usize| party.material.label(TRAINING + clip);
        let clips = shown(answers, truth);
        let asked = clips
            .iter()
            .map(|&clip| one(party, &trained.probe.task, clip));
        let said = futures::future::try_join_all(asked).await?;
        probe.push(clips.into_iter().zip(said).collect());
    }
    Ok(Served {
        answers,
        probe,
        alone,
        mixed,
    })
}

/// The clips that the report shows: the first ones, then the first misses among the others.
fn shown(answers: &[Answer], truth: impl Fn(usize) -> &'static str) -> Vec<usize> {
    let misses = (SHOWN..answers.len()).filter(|&clip| answers[clip].label != truth(clip));
    (0..SHOWN.min(answers.len()))
        .chain(misses.take(MISSES))
        .collect()
}

impl Room<'_> {
    /// Asks with several requests in flight; answers come back in the order of the questions.
    async fn timed(
        &self,
        questions: &[Question],
        at_once: usize,
        name: &str,
    ) -> Result<(Rate, Vec<Answer>), Error> {
        let before = passes::count(self.metrics).await?;
        let bar = self.console.bar(name, questions.len() as u64);
        let begin = Instant::now();
        let answers: Vec<Answer> = stream::iter(questions)
            .map(|&(party, clip)| one(&self.parties[party], self.tasks[party], clip))
            .buffered(at_once)
            .inspect_ok(|_| bar.add())
            .try_collect()
            .await?;
        let seconds = begin.elapsed().as_secs_f64();
        drop(bar);
        let rate = Rate {
            clips: questions.len(),
            seconds,
            passes: passes::count(self.metrics).await?.since(before),
            load: machine::load(),
        };
        self.console.line(&format!(
            "      {name}: {} clips, {:.1} a second; {:.0} passes of the backbone, {:.1} clips in each",
            rate.clips,
            rate.per_second(),
            rate.passes.batches,
            rate.passes.clips_a_batch()
        ));
        Ok((rate, answers))
    }
}

async fn one(party: &Party, task: &str, clip: usize) -> Result<Answer, Error> {
    let request = v1::ClassifyRequest {
        task: task.to_owned(),
        source: Some(Source::Video(party.videos[TRAINING + clip].clone())),
        options: None,
        ..Default::default()
    };
    let answer = party.client.classification().classify(request).await;
    let answer = answer.map_err(during("classify a clip"))?.into_inner();
    let best = answer.predictions.into_iter().next();
    let best = best.ok_or(Error::Incomplete {
        what: "a prediction",
    })?;
    Ok(Answer {
        label: best.label,
        score: best.score,
        frames: answer.frames.iter().map(|frame| frame.index).collect(),
        version: answer.version,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_misses_are_shown_after_the_first_clips() {
        let answer = |label: &str| Answer {
            label: label.to_owned(),
            score: 1.0,
            frames: Vec::new(),
            version: String::new(),
        };
        let mut answers: Vec<Answer> = (0..40).map(|_| answer("left")).collect();
        for clip in [3, 11, 20, 21, 22, 23] {
            answers[clip] = answer("right");
        }
        let first: Vec<usize> = (0..SHOWN).collect();
        assert_eq!(
            shown(&answers, |_| "left"),
            [first.as_slice(), &[11, 20, 21, 22]].concat()
        );
    }
}
