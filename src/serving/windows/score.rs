//! One window through the engine, for all versions that read it.
//!
//! Invariant: a window's answer has the bits of a request for the same frames alone.

use std::sync::Arc;
use std::time::Duration;

use super::ring::Shown;
use crate::engine::{self, Clips, Load, Permit, Pictures};
use crate::serving::clips::Decoded;
use crate::serving::{Answer, Asked, Caller, Error, Serving, scored};

/// Versions that read the same views of the same windows.
#[derive(Clone)]
pub(in crate::serving) struct Readers {
    /// The versions, in the order of the answers.
    pub(in crate::serving) asked: Vec<Arc<Asked>>,
    /// Which views of a window's frames they read.
    pub(in crate::serving) views: std::ops::Range<usize>,
    /// Frames of a window.
    pub(in crate::serving) frames: usize,
}

impl Readers {
    /// Returns what the engine has to have room for, for one window.
    pub(in crate::serving) fn load(&self) -> Load {
        Load {
            clips: self.views.len(),
            frames: self.frames,
            readers: self.asked.len(),
        }
    }
}

impl Serving {
    /// Waits for room for one window; streams have no more windows on their way than there is room for.
    pub(in crate::serving) async fn room(
        self,
        caller: Caller,
        load: Load,
    ) -> Result<Permit, engine::Error> {
        let asks = (&caller.tenant, caller.class);
        self.parts.engine.reserve_all(asks, &[load]).await
    }

    /// Classifies a window. Returns the answer of each version, in their order.
    ///
    /// # Errors
    /// When the deadline passes. What concerns one version is the error of its own answer.
    pub(in crate::serving) async fn window(
        &self,
        permit: &Permit,
        caller: &Caller,
        readers: &Readers,
        shown: &Shown,
        decode: Duration,
    ) -> Result<Vec<Result<Answer, Error>>, Error> {
        let views: &[Pictures] = &shown.views[readers.views.clone()];
        let clips = readers.asked.iter().map(|asked| Clips {
            version: asked.version.clone(),
            clips: views.to_vec(),
        });
        let engine = &self.parts.engine;
        let answers = engine.classify_each(permit, clips.collect(), caller.deadline);
        let answers = answers.await?;
        let decoded = Decoded {
            planes: Vec::new(),
            frames: shown.frames.clone(),
            took: decode,
        };
        let mut all = Vec::with_capacity(answers.len());
        for (answer, asked) in answers.into_iter().zip(&readers.asked) {
            let answer = answer.map_err(Error::from);
            let answer = answer.and_then(|answer| scored(asked, answer, &decoded));
            if let Ok(answer) = &answer {
                let took = answer.queue + answer.device;
                self.parts.metrics.classified(&answer.version, took);
            }
            self.tell(asked, &answer).await;
            all.push(answer);
        }
        Ok(all)
    }
}
