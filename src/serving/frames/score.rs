//! One window of a live stream: versions → room in the queue → planes → engine → scores.
//!
//! Invariant: a window's planes are made only when the queue has room for them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::lines::Lines;
use super::ring::Picked;
use crate::engine::{self, Permit};
use crate::serving::clips::Decoded;
use crate::serving::{Answer, Caller, Choice, Error, SampledFrame, Serving, scored};

/// Time between two looks for room, for a stream that waits.
const PAUSE: Duration = Duration::from_millis(5);

/// What every window of a stream has in common.
#[derive(Clone)]
pub(super) struct Shape {
    pub(super) serving: Serving,
    pub(super) caller: Arc<Caller>,
    pub(super) choices: Arc<[Choice]>,
    pub(super) lines: Arc<Lines>,
}

impl Shape {
    /// Room in the queue for one window.
    pub(super) fn admit(&self) -> Result<Permit, engine::Error> {
        let asks = (&self.caller.tenant, self.caller.class);
        let (deadline, loads) = (self.caller.deadline, self.lines.loads());
        let engine = &self.serving.parts.engine;
        engine.admit_all_for(asks, deadline, &loads)
    }

    /// Waits for room in the queue for one window.
    pub(super) async fn admit_in_time(&self) -> Result<Permit, engine::Error> {
        loop {
            match self.admit() {
                Err(engine::Error::QueueFull { .. }) => tokio::time::sleep(PAUSE).await,
                answer => return answer,
            }
        }
    }

    /// What each choice answers about the clips of a window.
    pub(super) async fn answers(
        &self,
        permit: Permit,
        picked: Vec<Picked>,
    ) -> Result<Vec<Result<Answer, Error>>, Error> {
        let began = Instant::now();
        let made = tokio::task::spawn_blocking(move || {
            let clips = picked.into_iter().map(|picked| {
                let planes = picked.planes();
                (planes, picked.frames)
            });
            clips.collect::<Vec<_>>()
        });
        let clips = made.await.map_err(|_| engine::Error::Stopped)?;
        let took = began.elapsed();
        // A stream keeps its key, and so its version of a split; without one the main version answers.
        let key = self.caller.key;
        let asked = self.serving.versions(&self.caller, &self.choices, key);
        let asked = asked.await;
        let same = asked.into_iter().zip(&self.lines.samplings);
        let asked = same.map(|(asked, sampling)| {
            let asked = asked?;
            match asked.essentials.sampling == *sampling {
                true => Ok(asked),
                false => Err(Error::SamplingChanged {
                    version: asked.version,
                }),
            }
        });
        let asked: Vec<Result<_, Error>> = asked.collect();
        let ready = asked.iter().zip(&self.lines.places);
        let ready = ready.filter_map(|(asked, &place)| Some((asked.as_ref().ok()?, place)));
        let versions = ready.filter_map(|(asked, place)| {
            Some(engine::Clips {
                version: asked.version.clone(),
                clips: (clips.get(place)?.0.iter().cloned())
                    .map(engine::Pictures::from)
                    .collect(),
            })
        });
        let versions = versions.collect();
        let engine = &self.serving.parts.engine;
        let frames: Vec<Vec<SampledFrame>> = clips.into_iter().map(|clip| clip.1).collect();
        let deadline = self.caller.deadline;
        let ran = engine.classify_each(&permit, versions, deadline).await?;
        drop(permit);
        let mut ran = ran.into_iter();
        let mut answers = Vec::with_capacity(asked.len());
        for (asked, &place) in asked.into_iter().zip(&self.lines.places) {
            let asked = match asked {
                Ok(asked) => asked,
                Err(error) => {
                    answers.push(Err(error));
                    continue;
                }
            };
            let decoded = Decoded {
                planes: Vec::new(),
                frames: frames.get(place).cloned().unwrap_or_default(),
                took,
            };
            let answer = ran.next().unwrap_or(Err(engine::Error::Stopped));
            let answer = answer
                .map_err(Error::from)
                .and_then(|answer| scored(&asked, answer, &decoded));
            self.serving.tell(&asked, &answer).await;
            answers.push(answer);
        }
        Ok(answers)
    }
}
