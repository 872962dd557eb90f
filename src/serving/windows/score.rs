//! One window through the engine, for all versions that read it.
//!
//! Invariant: a window's answer has the bits of a request for the same frames alone.

use std::sync::Arc;
use std::time::Duration;

use super::ring::Window;
use crate::engine::{self, Load, Permit};
use crate::serving::shown::{Given, Shown};
use crate::serving::{Asked, Caller, Error, Serving};
use crate::telemetry::trace::{Stage, stage};

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
        let admission = stage(Stage::Admit);
        let permit = self.parts.engine.reserve_all(asks, &[load]).await;
        admission.end(permit.is_ok());
        permit
    }

    /// Classifies a window. Returns what is answered for each version, in their order.
    ///
    /// # Errors
    /// When the deadline passes. What concerns one version is the error of its own answer.
    pub(in crate::serving) async fn window(
        &self,
        permit: &Permit,
        caller: &Caller,
        readers: &Readers,
        shown: &Window,
        decode: Duration,
    ) -> Result<Vec<Given>, Error> {
        let views = &shown.views[readers.views.clone()];
        let each = readers.asked.iter().map(|asked| Shown {
            asked,
            views: views.to_vec(),
            frames: &shown.frames,
            decode,
        });
        let given = self.run_of_stream(permit, caller, each.collect()).await?;
        for answer in given.iter().flat_map(|given| &given.answer) {
            let took = answer.queue + answer.device;
            self.parts.metrics.classified(&answer.version, took);
        }
        Ok(given)
    }
}
