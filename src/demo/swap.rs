//! The hot swap: a second version is trained and takes over while clients ask.
//!
//! Invariant: every answer is compared, bit for bit, with what the version that it names says of that clip when it is asked for by name.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::time::{Duration, Instant};

use futures::future::join_all;
use tokio::sync::Notify;
use tokio::time::timeout;

use super::clips::TRAINING;
use super::console::Console;
use super::train::{self, Trained};
use super::{Error, Party, during};
use crate::proto::v1::{self, classify_request::Source};

/// Clients that ask, each as soon as it has its answer.
const CLIENTS: usize = 4;
/// Unseen clips that they ask about, again and again.
const CLIPS: usize = 32;
/// Answers before the swap is asked for, and after the new version's first.
const AROUND: usize = 64;
/// Time that the swap and the answers around it have.
const PATIENCE: Duration = Duration::from_secs(120);

/// Observations of a swap.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Swap {
    /// The version that served before.
    pub(super) from: String,
    /// The version that serves since.
    pub(super) to: String,
    /// Answers by the old version.
    pub(super) by_old: usize,
    /// Answers by the new version.
    pub(super) by_new: usize,
    /// Requests that were refused or had no answer.
    pub(super) failed: usize,
    /// Answers whose version, labels or scores are not those of either version.
    pub(super) wrong: usize,
    /// Time from the request to serve the new version to its first answer, in milliseconds.
    pub(super) milliseconds: f64,
    /// The longest that a client waited for an answer meanwhile, in milliseconds.
    pub(super) longest_wait: f64,
    /// Passes of the new version's training over the training clips.
    pub(super) epochs: usize,
    /// Share of the unseen clips that the new version gets right.
    pub(super) accuracy: f64,
    /// Loss of the new version on the unseen clips after its last epoch.
    pub(super) loss: f64,
    /// Seconds from the new version's job to its end.
    pub(super) seconds: f64,
}

impl Swap {
    /// The outcome in a sentence.
    pub(super) fn sentence(&self) -> String {
        let number = |version: &str| match version.rsplit('/').next() {
            Some(number) => format!("v{number}"),
            None => version.to_owned(),
        };
        let (from, to) = (number(&self.from), number(&self.to));
        let answers = self.by_old + self.by_new + self.wrong;
        let whole = match self.wrong {
            0 => "every answer's labels and scores belong to the version it names".to_owned(),
            wrong => format!("{wrong} answers do not belong to the version they name"),
        };
        format!(
            "{answers} answers ({} by {from}, {} by {to}), {} failed; {whole}; from {from} to {to} in {:.0} ms, longest wait for an answer {:.0} ms",
            self.by_old, self.by_new, self.failed, self.milliseconds, self.longest_wait
        )
    }
}

/// Labels and the bits of their scores, best first.
type Scores = Vec<(String, u32)>;

/// A client's reply.
struct Reply {
    clip: usize,
    waited: Duration,
    /// The version and its scores; the error is only counted.
    answer: Option<(String, Scores)>,
}

/// Trains a second version of the tenant's first task and swaps it in while clients ask.
pub(super) async fn run(
    party: &Party,
    trained: &Trained,
    seed: u64,
    console: &Console,
) -> Result<Swap, Error> {
    let task = &trained.adapters.task;
    let old = trained.adapters.result.version.clone();
    serve_by_hand(party, task).await?;
    let second = train::second(party, seed, console).await?;
    let new = second.result.version.clone();
    let said_by_old = say(party, task, &old).await?;

    let log = Log::default();
    let clients = join_all((0..CLIENTS).map(|first| ask(party, task, first, &log)));
    let swap = async {
        let moved = timeout(PATIENCE, move_on(party, task, &new, &log)).await;
        log.stop.set(true);
        moved.map_err(|_| Error::Incomplete {
            what: "the new version's answers",
        })?
    };
    let (_, milliseconds) = futures::future::join(clients, swap).await;
    let milliseconds = milliseconds?;

    let said_by_new = say(party, task, &new).await?;
    let evaluation = second.result.evaluation.unwrap_or_default();
    let mut seen = Swap {
        milliseconds,
        epochs: second.result.loss_curve.len(),
        accuracy: evaluation.top1,
        loss: evaluation.loss,
        seconds: second.seconds,
        ..Swap::default()
    };
    for reply in log.replies.into_inner() {
        seen.longest_wait = seen.longest_wait.max(reply.waited.as_secs_f64() * 1e3);
        let Some((version, scores)) = reply.answer else {
            seen.failed += 1;
            continue;
        };
        if version == old && scores == said_by_old[reply.clip] {
            seen.by_old += 1;
        } else if version == new && scores == said_by_new[reply.clip] {
            seen.by_new += 1;
        } else {
            seen.wrong += 1;
        }
    }
    (seen.from, seen.to) = (old, new);
    console.line(&format!("      {}", seen.sentence()));
    Ok(seen)
}

/// Makes the task keep its version until another is requested.
async fn serve_by_hand(party: &Party, task: &str) -> Result<(), Error> {
    let request = v1::UpdateTaskRequest {
        task: Some(v1::Task {
            name: task.to_owned(),
            auto_serve: Some(false),
            ..Default::default()
        }),
        update_mask: Some(prost_types::FieldMask {
            paths: vec!["auto_serve".to_owned()],
        }),
    };
    let answer = party.client.tasks().update_task(request).await;
    answer.map(drop).map_err(during("change a task"))
}

/// Scores of each clip by a version that is asked for by name.
async fn say(party: &Party, task: &str, version: &str) -> Result<Vec<Scores>, Error> {
    let mut said = Vec::new();
    for clip in 0..CLIPS {
        let answer = classify(party, task, clip, version).await;
        let (answered, scores) = answer.map_err(during("classify with a version"))?;
        if answered != version {
            return Err(Error::Incomplete {
                what: "an answer of the version that was asked for",
            });
        }
        said.push(scores);
    }
    Ok(said)
}

/// The version that answered, and all its scores. `version` may be empty: then the serving one answers.
async fn classify(
    party: &Party,
    task: &str,
    clip: usize,
    version: &str,
) -> Result<(String, Scores), tonic::Status> {
    let request = v1::ClassifyRequest {
        task: task.to_owned(),
        source: Some(Source::Video(party.videos[TRAINING + clip].clone())),
        options: Some(v1::ClassifyOptions {
            // More than there are labels: all of them.
            top_k: 64,
            version: version.to_owned(),
            ..Default::default()
        }),
        ..Default::default()
    };
    let answer = party.client.classification().classify(request).await?;
    let answer = answer.into_inner();
    let scores = answer.predictions.into_iter();
    let scores = scores.map(|one| (one.label, one.score.to_bits())).collect();
    Ok((answer.version, scores))
}

/// Replies of all clients so far.
#[derive(Default)]
struct Log {
    replies: RefCell<Vec<Reply>>,
    /// Answers by each version.
    answers: RefCell<HashMap<String, usize>>,
    news: Notify,
    stop: Cell<bool>,
}

impl Log {
    fn add(&self, reply: Reply) {
        if let Some((version, _)) = &reply.answer {
            let mut answers = self.answers.borrow_mut();
            *answers.entry(version.clone()).or_default() += 1;
        }
        self.replies.borrow_mut().push(reply);
        self.news.notify_one();
    }

    /// Waits until this many replies have come.
    async fn replies(&self, count: usize) {
        while self.replies.borrow().len() < count {
            self.news.notified().await;
        }
    }

    /// Waits until a version has answered.
    async fn answer_of(&self, version: &str) {
        while !self.answers.borrow().contains_key(version) {
            self.news.notified().await;
        }
    }
}

/// Runs one client: it asks about the clips in turn until it is stopped.
async fn ask(party: &Party, task: &str, first: usize, log: &Log) {
    for clip in (0..CLIPS).cycle().skip(first * CLIPS / CLIENTS) {
        if log.stop.get() {
            return;
        }
        let begin = Instant::now();
        let answer = classify(party, task, clip, "").await.ok();
        log.add(Reply {
            clip,
            waited: begin.elapsed(),
            answer,
        });
    }
}

/// Asks for the new version between two answers; returns the milliseconds until its first answer.
async fn move_on(party: &Party, task: &str, version: &str, log: &Log) -> Result<f64, Error> {
    log.replies(AROUND).await;
    let begin = Instant::now();
    train::serve(party, task, version).await?;
    log.answer_of(version).await;
    let milliseconds = begin.elapsed().as_secs_f64() * 1e3;
    let seen = log.replies.borrow().len();
    log.replies(seen + AROUND).await;
    Ok(milliseconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_swap_is_told_in_a_sentence_with_what_went_wrong() {
        let mut swap = Swap {
            from: "tasks/motion/versions/1".to_owned(),
            to: "tasks/motion/versions/2".to_owned(),
            by_old: 70,
            by_new: 64,
            milliseconds: 31.4,
            longest_wait: 412.0,
            ..Swap::default()
        };
        assert_eq!(
            swap.sentence(),
            "134 answers (70 by v1, 64 by v2), 0 failed; every answer's labels and scores belong to the version it names; \
             from v1 to v2 in 31 ms, longest wait for an answer 412 ms"
        );
        swap.wrong = 2;
        assert!(swap.sentence().contains("136 answers"));
        assert!(swap.sentence().contains("2 answers do not belong"));
    }
}
