//! The stages of a request, each a span of its trace.
//!
//! Invariant: a stage ends with its guard at the latest: one that is dropped on the way counts as cancelled.

use std::sync::Arc;
use std::time::Instant;

use opentelemetry::{KeyValue, Value};

use super::{Request, current};

/// A stage of a classification or an embedding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stage {
    /// From the request's message to a place in the queue, or its refusal: the versions are looked up here.
    Admit,
    /// Opening, decoding and transforming the video.
    Decode,
    /// Making the adapter sets resident; short when they are.
    Load,
    /// From entering the queue to the last clip's batch.
    Queue,
    /// A batch on the device that held clips of the request.
    Device,
    /// From the last clip's result to the end of the answer.
    Answer,
}

impl Stage {
    /// Returns the name of the stage's span.
    pub fn name(self) -> &'static str {
        match self {
            Self::Admit => "admit",
            Self::Decode => "decode",
            Self::Load => "load",
            Self::Queue => "queue",
            Self::Device => "device",
            Self::Answer => "answer",
        }
    }
}

/// Begins a stage of the running request.
pub fn stage(stage: Stage) -> Open {
    Open(current().map(|request| Recording {
        request,
        stage,
        began: Instant::now(),
        attributes: Vec::new(),
    }))
}

/// A stage that is not over. Does nothing when the request is not traced.
#[derive(Debug)]
#[must_use = "a stage ends when this is dropped"]
pub struct Open(Option<Recording>);

#[derive(Debug)]
struct Recording {
    request: Arc<Request>,
    stage: Stage,
    began: Instant,
    attributes: Vec<KeyValue>,
}

impl Open {
    /// Adds an attribute: a number, or a name that the server made. Nothing of a video, a label or a credential belongs here.
    pub fn note(&mut self, key: &'static str, value: impl Into<Value>) {
        if let Some(recording) = &mut self.0 {
            recording.attributes.push(KeyValue::new(key, value));
        }
    }

    /// Adds a count.
    pub fn count(&mut self, key: &'static str, count: usize) {
        self.note(key, i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// Ends the stage, as one that succeeded or failed.
    pub fn end(mut self, is_ok: bool) {
        let failure = (!is_ok).then_some("failed");
        if let Some(recording) = self.0.take() {
            recording.end(Instant::now(), failure);
        }
    }

    /// Ends the stage at an earlier moment.
    pub fn end_at(mut self, at: Instant) {
        if let Some(recording) = self.0.take() {
            recording.end(at, None);
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        if let Some(recording) = self.0.take() {
            recording.end(Instant::now(), Some("cancelled"));
        }
    }
}

impl Recording {
    fn end(self, at: Instant, failure: Option<&'static str>) {
        let times = (self.began, at.max(self.began));
        self.request
            .record(self.stage, times, self.attributes, failure);
    }
}

impl Stage {
    /// Records this stage of the running request after it is over, from one moment to another.
    pub fn was(self, times: (Instant, Instant), attributes: &[(&'static str, usize)]) {
        let Some(request) = current() else {
            return;
        };
        let attribute = |&(key, count): &(&'static str, usize)| {
            KeyValue::new(key, i64::try_from(count).unwrap_or(i64::MAX))
        };
        let attributes = attributes.iter().map(attribute).collect();
        request.record(self, times, attributes, None);
    }

    /// Begins the answer of the running request, which ends with the request.
    pub fn answering() {
        if let Some(request) = current() {
            let mut state = request.lock();
            if !state.is_stream {
                state.answering = Some(Instant::now());
            }
        }
    }
}
