//! What a load found: counts, errors by code and reason, and distributions of times.
//!
//! Invariant: a request's latency begins when it should have been sent, so that a request that waited for its turn behind a slow one counts its wait; and
//! every request that was sent is either answered or an error.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::{CreationError, Histogram};
use serde::Serialize;

use crate::report::Table;

/// A distribution of times, to a thousandth of each, up to an hour.
#[derive(Debug, Clone)]
pub(super) struct Times(Histogram<u64>);

impl Times {
    fn new() -> Result<Self, CreationError> {
        const HOUR_US: u64 = 3_600_000_000;
        Histogram::new_with_bounds(1, HOUR_US, 3).map(Self)
    }

    fn note(&mut self, time: Duration) {
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.0.saturating_record(micros.max(1));
    }

    fn add(&mut self, other: &Self) {
        // All have the same bounds, so that nothing of another can be out of range.
        let _ = self.0.add(&other.0);
    }

    fn quantiles(&self) -> Option<Quantiles> {
        let at = |quantile| self.0.value_at_quantile(quantile) as f64 / 1e3;
        (!self.0.is_empty()).then(|| Quantiles {
            mean: (self.0.mean() / 10.0).round() / 100.0,
            p50: at(0.5),
            p90: at(0.9),
            p95: at(0.95),
            p99: at(0.99),
            max: self.0.max() as f64 / 1e3,
        })
    }
}

/// A distribution in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Quantiles {
    mean: f64,
    p50: f64,
    p90: f64,
    pub(super) p95: f64,
    pub(super) p99: f64,
    max: f64,
}

/// Where an answer says its time went.
#[derive(Debug, Clone, Copy)]
pub(super) struct Spent {
    pub(super) decode: Duration,
    pub(super) queue: Duration,
    pub(super) device: Duration,
}

/// How a request ended.
#[derive(Debug, Clone)]
pub(super) enum End {
    /// With scores, and the server's own timings when it says them.
    Answered(Option<Spent>),
    /// With an error: the code, and the reason when there is one.
    Failed { code: String, reason: String },
}

/// When a request should have been sent, was sent, and ended.
#[derive(Debug, Clone)]
pub(super) struct Call {
    /// From the time at which it should have been sent to its end.
    pub(super) latency: Duration,
    /// From the time at which it should have been sent to the time at which it was.
    pub(super) late: Duration,
    pub(super) end: End,
}

/// Everything that is counted of one tenant's requests.
#[derive(Debug, Clone)]
pub(super) struct Recorder {
    sent: u64,
    answered: u64,
    errors: u64,
    /// Answers that came while the clock ran, whenever they were asked for.
    in_time: u64,
    by_code: BTreeMap<String, u64>,
    latency: Times,
    late: Times,
    refused: Times,
    decode: Times,
    queue: Times,
    device: Times,
}

/// The code of a server that has no room for a request.
const REFUSAL: &str = "ResourceExhausted";

impl Recorder {
    /// An empty record.
    ///
    /// # Errors
    /// When a histogram cannot be made.
    pub(super) fn new() -> Result<Self, CreationError> {
        Ok(Self {
            sent: 0,
            answered: 0,
            errors: 0,
            in_time: 0,
            by_code: BTreeMap::new(),
            latency: Times::new()?,
            late: Times::new()?,
            refused: Times::new()?,
            decode: Times::new()?,
            queue: Times::new()?,
            device: Times::new()?,
        })
    }

    /// Notes a request that is about to be sent.
    pub(super) fn sent(&mut self) {
        self.sent += 1;
    }

    /// Notes an answer that came while the clock ran.
    pub(super) fn in_time(&mut self) {
        self.in_time += 1;
    }

    /// Notes the end of a request that was sent.
    pub(super) fn ended(&mut self, call: &Call) {
        self.late.note(call.late);
        match &call.end {
            End::Answered(spent) => {
                self.answered += 1;
                self.latency.note(call.latency);
                if let Some(spent) = spent {
                    self.decode.note(spent.decode);
                    self.queue.note(spent.queue);
                    self.device.note(spent.device);
                }
            }
            End::Failed { code, reason } => {
                self.errors += 1;
                let name = match reason.as_str() {
                    "" => code.clone(),
                    reason => format!("{code}/{reason}"),
                };
                *self.by_code.entry(name).or_default() += 1;
                if code == REFUSAL {
                    // What a refusal takes is the server's; the generator's own delay is reported beside it.
                    self.refused.note(call.latency.saturating_sub(call.late));
                }
            }
        }
    }

    /// Adds another tenant's record.
    pub(super) fn add(&mut self, other: &Self) {
        self.sent += other.sent;
        self.answered += other.answered;
        self.errors += other.errors;
        self.in_time += other.in_time;
        for (code, count) in &other.by_code {
            *self.by_code.entry(code.clone()).or_default() += count;
        }
        self.latency.add(&other.latency);
        self.late.add(&other.late);
        self.refused.add(&other.refused);
        self.decode.add(&other.decode);
        self.queue.add(&other.queue);
        self.device.add(&other.device);
    }

    /// Returns the figures of a measurement of this many seconds.
    pub(super) fn figures(&self, name: &str, seconds: f64) -> Figures {
        let server = [&self.decode, &self.queue, &self.device].map(Times::quantiles);
        let server = match server {
            [Some(decode), Some(queue), Some(device)] => Some(Server {
                decode,
                queue,
                device,
            }),
            _ => None,
        };
        Figures {
            name: name.to_owned(),
            sent: self.sent,
            answered: self.answered,
            errors: self.errors,
            errors_by_code: self.by_code.clone(),
            clips_per_s: (self.in_time as f64 / seconds.max(1e-9) * 100.0).round() / 100.0,
            latency_ms: self.latency.quantiles(),
            refusal_ms: self.refused.quantiles(),
            late_ms: self.late.quantiles(),
            server_ms: server,
        }
    }
}

/// The server's own timings of what it answered, in milliseconds.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Server {
    decode: Quantiles,
    queue: Quantiles,
    device: Quantiles,
}

/// The figures of one tenant, or of all.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Figures {
    /// Name of the tenant, or `all`.
    pub(super) name: String,
    /// Requests that should have been sent while the clock ran.
    pub(super) sent: u64,
    /// Requests that were answered.
    pub(super) answered: u64,
    /// Requests that were not answered.
    pub(super) errors: u64,
    /// The errors by code and reason.
    errors_by_code: BTreeMap<String, u64>,
    /// Answers that came while the clock ran, by its time.
    pub(super) clips_per_s: f64,
    /// Latencies of the answers, from the intended time of sending.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) latency_ms: Option<Quantiles>,
    /// Times of the refusals for want of room, from the real time of sending.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) refusal_ms: Option<Quantiles>,
    /// How late requests were sent: a generator that is too slow for its rate shows here.
    #[serde(skip_serializing_if = "Option::is_none")]
    late_ms: Option<Quantiles>,
    /// The server's own timings.
    #[serde(skip_serializing_if = "Option::is_none")]
    server_ms: Option<Server>,
}

/// Figures as a table for a terminal, and the errors below it.
pub(super) fn table(all: &[Figures]) -> String {
    let mut table = Table::new(&[
        "", "sent", "answered", "errors", "clips/s", "p50 ms", "p95 ms", "p99 ms", "max ms",
        "late p99", "decode", "queue", "device",
    ]);
    let ms = |value: Option<f64>| value.map_or_else(|| "–".to_owned(), |ms| format!("{ms:.1}"));
    for own in all {
        let latency = |pick: fn(&Quantiles) -> f64| ms(own.latency_ms.as_ref().map(pick));
        let server = |pick: fn(&Server) -> f64| ms(own.server_ms.as_ref().map(pick));
        table.row(vec![
            own.name.clone(),
            own.sent.to_string(),
            own.answered.to_string(),
            own.errors.to_string(),
            format!("{:.1}", own.clips_per_s),
            latency(|times| times.p50),
            latency(|times| times.p95),
            latency(|times| times.p99),
            latency(|times| times.max),
            ms(own.late_ms.map(|times| times.p99)),
            server(|times| times.decode.p50),
            server(|times| times.queue.p50),
            server(|times| times.device.p50),
        ]);
    }
    let mut text = table.to_text();
    for own in all {
        for (code, count) in &own.errors_by_code {
            text += &format!("{}: {count} × {code}\n", own.name);
        }
        if let Some(refusals) = &own.refusal_ms {
            let (p50, p99) = (refusals.p50, refusals.p99);
            text += &format!(
                "{}: refused after p50 {p50:.1} ms, p99 {p99:.1} ms\n",
                own.name
            );
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn call(latency: u64, late: u64, error: Option<&str>) -> Call {
        Call {
            latency: Duration::from_millis(latency),
            late: Duration::from_millis(late),
            end: match error {
                None => End::Answered(None),
                Some(code) => End::Failed {
                    code: code.to_owned(),
                    reason: "QUEUE_FULL".to_owned(),
                },
            },
        }
    }

    proptest! {
        #[test]
        fn what_was_sent_is_answered_or_an_error_also_in_a_sum(
            calls in prop::collection::vec((0_u64..100_000, 0_u64..50, any::<bool>(), any::<bool>()), 0..200),
        ) {
            let mut parts = [Recorder::new().unwrap(), Recorder::new().unwrap()];
            for &(latency, late, fails, second) in &calls {
                let part = &mut parts[usize::from(second)];
                part.sent();
                part.ended(&call(latency + late, late, fails.then_some("Internal")));
            }
            let [mut all, second] = parts;
            all.add(&second);
            let figures = all.figures("all", 1.0);
            prop_assert_eq!(figures.sent as usize, calls.len());
            prop_assert_eq!(figures.answered + figures.errors, figures.sent);
            prop_assert_eq!(figures.errors_by_code.values().sum::<u64>(), figures.errors);
            prop_assert_eq!(figures.latency_ms.is_some(), figures.answered > 0);
        }
    }

    #[test]
    fn quantiles_are_those_of_the_latencies_and_refusals_do_not_count_the_generators_delay() {
        let mut recorder = Recorder::new().unwrap();
        for latency in 1..=100 {
            recorder.ended(&call(latency, 0, None));
        }
        recorder.ended(&call(12, 10, Some("ResourceExhausted")));
        recorder.in_time();
        let figures = recorder.figures("a", 0.5);
        let latency = figures.latency_ms.unwrap();
        assert!((latency.p50 - 50.0).abs() < 0.1 && (latency.p99 - 99.0).abs() < 0.2);
        assert!((figures.refusal_ms.unwrap().p99 - 2.0).abs() < 0.01);
        assert!((figures.clips_per_s - 2.0).abs() < 1e-9);
        let text = table(&[figures]);
        assert!(text.contains("1 × ResourceExhausted/QUEUE_FULL"), "{text}");
    }
}
