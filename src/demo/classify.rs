//! Classifies every unseen clip of both tenants through the API: each task alone, then both interleaved on the one backbone.

use std::time::Instant;

use futures::{StreamExt, TryStreamExt, stream};

use super::clips::{TRAINING, UNSEEN};
use super::console::Console;
use super::train::Trained;
use super::{Error, Party, during};
use crate::proto::v1::{self, classify_request::Source};

/// Requests in flight at once.
const AT_ONCE: usize = 8;
/// Unseen clips, from the first, that the report shows: pairs that are each other's reversal.
pub(super) const SHOWN: usize = 8;

/// What the server said of one clip.
pub(super) struct Answer {
    /// The best label.
    pub(super) label: String,
    /// Its score.
    pub(super) score: f32,
    /// Indices of the frames that were looked at.
    pub(super) frames: Vec<u32>,
    /// `tasks/…/versions/…`.
    pub(super) version: String,
}

/// How fast clips were answered.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Rate {
    pub(super) clips: usize,
    pub(super) seconds: f64,
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
    /// What the linear probe says of the first [`SHOWN`] clips.
    pub(super) probe: Vec<Vec<Answer>>,
    /// Throughput of each task alone.
    pub(super) alone: Vec<Rate>,
    /// Throughput of both together.
    pub(super) mixed: Rate,
}

/// One clip to be classified: whose, and which of the unseen ones.
type Question = (usize, usize);

/// Asks about every unseen clip once.
pub(super) async fn all(
    parties: &[Party],
    trained: &[Trained],
    console: &Console,
) -> Result<Served, Error> {
    let tasks: Vec<&str> = trained.iter().map(|t| t.adapters.task.as_str()).collect();
    let mut answers: Vec<Vec<Answer>> = parties.iter().map(|_| Vec::new()).collect();
    let mut alone = Vec::new();
    for (party, role) in parties.iter().map(|party| party.role).enumerate() {
        let questions: Vec<Question> = (0..UNSEEN / 2).map(|clip| (party, clip)).collect();
        let (rate, found) = timed(parties, &tasks, &questions, console, role.tenant).await?;
        alone.push(rate);
        answers[party].extend(found);
    }
    let questions: Vec<Question> = (UNSEEN / 2..UNSEEN)
        .flat_map(|clip| (0..parties.len()).map(move |party| (party, clip)))
        .collect();
    let (mixed, found) = timed(parties, &tasks, &questions, console, "both interleaved").await?;
    for ((party, _), answer) in questions.iter().zip(found) {
        answers[*party].push(answer);
    }
    let mut probe = Vec::new();
    for (party, trained) in parties.iter().zip(trained) {
        let asked = (0..SHOWN).map(|clip| one(party, &trained.probe.task, clip));
        probe.push(futures::future::try_join_all(asked).await?);
    }
    Ok(Served {
        answers,
        probe,
        alone,
        mixed,
    })
}

/// Asks with several requests in flight; answers come back in the order of the questions.
async fn timed(
    parties: &[Party],
    tasks: &[&str],
    questions: &[Question],
    console: &Console,
    name: &str,
) -> Result<(Rate, Vec<Answer>), Error> {
    let bar = console.bar(name, questions.len() as u64);
    let begin = Instant::now();
    let answers: Vec<Answer> = stream::iter(questions)
        .map(|&(party, clip)| one(&parties[party], tasks[party], clip))
        .buffered(AT_ONCE)
        .inspect_ok(|_| bar.add())
        .try_collect()
        .await?;
    let rate = Rate {
        clips: questions.len(),
        seconds: begin.elapsed().as_secs_f64(),
    };
    drop(bar);
    console.line(&format!(
        "      {name}: {} clips, {:.1} a second",
        rate.clips,
        rate.per_second()
    ));
    Ok((rate, answers))
}

async fn one(party: &Party, task: &str, clip: usize) -> Result<Answer, Error> {
    let request = v1::ClassifyRequest {
        task: task.to_owned(),
        source: Some(Source::Video(party.videos[TRAINING + clip].clone())),
        options: None,
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
