//! One window of a live stream: room in the queue → versions → engine → scores.
//!
//! Invariant: a window's clips are the frames of the ring themselves, never copies.

use std::sync::Arc;
use std::time::Duration;

use super::lines::Lines;
use super::ring::Picked;
use crate::engine::{self, Permit};
use crate::serving::shown::Shown;
use crate::serving::{Answer, Caller, Choice, Error, Serving};

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
        let asks = (&self.caller.tenant, self.caller.class);
        let engine = &self.serving.parts.engine;
        engine.reserve_all(asks, &self.lines.loads()).await
    }

    /// What each choice answers about the clips of a window, whose frames were decoded in the time `decode`.
    pub(super) async fn answers(
        &self,
        permit: Permit,
        picked: Vec<Picked>,
        decode: Duration,
    ) -> Result<Vec<Result<Answer, Error>>, Error> {
        // A stream keeps its key, and so its version of a split.
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
        let shown = ready.filter_map(|(asked, &place)| {
            let picked = picked.get(place)?;
            Some(Shown {
                asked: asked.as_ref().ok()?,
                views: picked.views.clone(),
                frames: &picked.frames,
                decode,
            })
        });
        let shown = shown.collect();
        let given = self.serving.run_of_stream(&permit, &self.caller, shown);
        let given = given.await?;
        drop(permit);
        let mut given = given.into_iter();
        let answer = |asked: Result<_, Error>| {
            asked?;
            let given = given.next().map(|given| given.answer);
            given.unwrap_or(Err(engine::Error::Stopped.into()))
        };
        Ok(asked.into_iter().map(answer).collect())
    }
}
