//! How often the backbone ran, by the server's own metrics.
//!
//! Invariant: the counters are read between phases, when no request is in flight, so that a difference belongs to one phase.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::Error;

/// Time that the metrics endpoint has to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Counters of the server since its start.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Passes {
    /// Batches, each of which is one pass of the backbone.
    pub(super) batches: f64,
    /// Clips in all batches.
    pub(super) clips: f64,
    /// Adapter sets in all batches: more than `batches` when batches mixed tasks.
    pub(super) sets: f64,
}

impl Passes {
    /// Difference from an earlier reading.
    pub(super) fn since(self, before: Self) -> Self {
        Self {
            batches: self.batches - before.batches,
            clips: self.clips - before.clips,
            sets: self.sets - before.sets,
        }
    }

    /// Both together.
    pub(super) fn plus(self, other: Self) -> Self {
        Self {
            batches: self.batches + other.batches,
            clips: self.clips + other.clips,
            sets: self.sets + other.sets,
        }
    }

    /// Clips of a batch, on average.
    pub(super) fn clips_a_batch(self) -> f64 {
        self.clips / self.batches.max(1.0)
    }

    /// Tasks of a batch, on average.
    pub(super) fn sets_a_batch(self) -> f64 {
        self.sets / self.batches.max(1.0)
    }

    /// Passes of the backbone for a clip, on average.
    pub(super) fn a_clip(self) -> f64 {
        self.batches / self.clips.max(1.0)
    }
}

/// Reads the counters.
pub(super) async fn count(metrics: SocketAddr) -> Result<Passes, Error> {
    let failed = |source| Error::Metrics { source };
    let late = |_| failed(std::io::ErrorKind::TimedOut.into());
    let text = timeout(PATIENCE, get(metrics)).await.map_err(late)?;
    let text = text.map_err(failed)?;
    parse(&text).ok_or(Error::Incomplete {
        what: "the batches in the metrics",
    })
}

async fn get(metrics: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(metrics).await?;
    let request = format!("GET /metrics HTTP/1.1\r\nHost: {metrics}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

/// The sums and counts of the two histograms of batches.
fn parse(text: &str) -> Option<Passes> {
    let value = |name: &str| -> Option<f64> {
        let mut lines = text.lines().filter_map(|line| line.split_once(' '));
        let (_, value) = lines.find(|(key, _)| *key == name)?;
        value.trim().parse().ok()
    };
    Some(Passes {
        batches: value("frameshift_batch_clips_count")?,
        clips: value("frameshift_batch_clips_sum")?,
        sets: value("frameshift_batch_adapter_sets_sum")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::Metrics;

    #[test]
    fn the_servers_own_metrics_are_understood() {
        let metrics = Metrics::new();
        metrics.batch(6, 2);
        metrics.batch(2, 1);
        let passes = parse(&metrics.text()).unwrap();
        let expected = Passes {
            batches: 2.0,
            clips: 8.0,
            sets: 3.0,
        };
        assert_eq!(passes, expected);
        assert_eq!((passes.clips_a_batch(), passes.sets_a_batch()), (4.0, 1.5));
        assert_eq!(passes.a_clip(), 0.25);
        assert!(parse("nothing").is_none());
    }
}
