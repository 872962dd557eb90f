//! The way of spans to the collector: a bounded queue, a thread of its own, and OTLP over gRPC.
//!
//! Invariant: a span that finds the queue full is dropped. That the collector cannot be reached is logged once, and so is its return.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use opentelemetry::trace::TracerProvider as _;
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_otlp::{SpanExporter as Otlp, WithExportConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracer, SdkTracerProvider, SpanData,
    SpanExporter,
};

use super::Config;

/// Spans that wait for the collector: about 600 requests, a few megabytes.
const QUEUE: usize = 4096;
/// Spans of one message to the collector.
const BATCH: usize = 512;
/// Longest time that a span waits before it is sent.
const DELAY: Duration = Duration::from_secs(2);
/// Longest time of one message to the collector, retries included.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Longest time that the end of the process waits for the collector.
const PARTING: Duration = Duration::from_secs(3);

/// Reason why no spans can be exported.
#[derive(Debug, thiserror::Error)]
#[error("cannot export traces to {endpoint}")]
pub struct Unusable {
    /// The endpoint that was given.
    pub endpoint: String,
    /// Reason.
    #[source]
    source: Box<opentelemetry_otlp::ExporterBuildError>,
}

/// Export of spans while the server runs.
pub(super) struct Exporting {
    provider: SdkTracerProvider,
    pub(super) tracer: SdkTracer,
}

impl fmt::Debug for Exporting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Exporting")
    }
}

impl Exporting {
    /// Starts the thread that sends. Called on a runtime, on which the connection lives.
    pub(super) fn start(config: &Config) -> Result<Self, Unusable> {
        let endpoint = config.endpoint.clone();
        let otlp = Otlp::builder()
            .with_tonic()
            .with_endpoint(endpoint.clone())
            .with_timeout(TIMEOUT)
            .build()
            .map_err(|source| Unusable {
                endpoint: endpoint.clone(),
                source: Box::new(source),
            })?;
        let batches = BatchConfigBuilder::default()
            .with_max_queue_size(QUEUE)
            .with_max_export_batch_size(BATCH)
            .with_scheduled_delay(DELAY)
            .build();
        let told = Told {
            inner: otlp,
            endpoint,
            is_failing: AtomicBool::new(false),
        };
        let processor = BatchSpanProcessor::builder(told)
            .with_batch_config(batches)
            .build();
        let by_ratio = Box::new(Sampler::TraceIdRatioBased(config.ratio));
        let version = env!("CARGO_PKG_VERSION");
        let instance = uuid::Uuid::now_v7().to_string();
        let resource = Resource::builder()
            .with_service_name("frameshift")
            .with_attribute(KeyValue::new("service.version", version))
            .with_attribute(KeyValue::new("service.instance.id", instance))
            .build();
        let provider = SdkTracerProvider::builder()
            .with_sampler(Sampler::ParentBased(by_ratio))
            .with_resource(resource)
            .with_span_processor(processor)
            .build();
        let scope = InstrumentationScope::builder("frameshift").with_version(version);
        let tracer = provider.tracer_with_scope(scope.build());
        Ok(Self { provider, tracer })
    }

    /// Sends what waits and ends the thread; blocks.
    pub(super) fn finish(&self) {
        if let Err(error) = self.provider.shutdown_with_timeout(PARTING) {
            tracing::warn!(%error, "the last spans may not have reached the collector");
        }
    }
}

/// An exporter that tells the log when the collector goes and when it comes back, once each.
#[derive(Debug)]
struct Told<E> {
    inner: E,
    endpoint: String,
    is_failing: AtomicBool,
}

impl<E: SpanExporter> SpanExporter for Told<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let exported = self.inner.export(batch).await;
        let (endpoint, is_failing) = (&*self.endpoint, exported.is_err());
        let was_failing = self.is_failing.swap(is_failing, Ordering::Relaxed);
        match &exported {
            Err(error) if !was_failing => {
                tracing::warn!(endpoint, %error, "the collector does not accept traces; they are dropped meanwhile");
            }
            Ok(()) if was_failing => {
                tracing::info!(endpoint, "the collector accepts traces again");
            }
            Ok(()) | Err(_) => {}
        }
        exported
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.inner.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use opentelemetry_sdk::error::OTelSdkError;
    use std::io;
    use std::sync::{Arc, Mutex};
    use tracing_subscriber::fmt::MakeWriter;

    /// A collector that answers as it is told.
    #[derive(Debug)]
    struct Answers(Mutex<Vec<bool>>);

    impl SpanExporter for Answers {
        async fn export(&self, _batch: Vec<SpanData>) -> OTelSdkResult {
            match self.0.lock().unwrap().pop() {
                Some(true) => Ok(()),
                Some(false) | None => Err(OTelSdkError::InternalFailure("away".into())),
            }
        }
    }

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl<'a> MakeWriter<'a> for Lines {
        type Writer = Self;

        fn make_writer(&'a self) -> Self {
            self.clone()
        }
    }

    #[test]
    fn a_collector_that_goes_and_comes_back_is_said_once_each() {
        let lines = Lines::default();
        let log = tracing_subscriber::fmt()
            .with_writer(lines.clone())
            .finish();
        let answers = vec![false, true, true, false, false, false, true];
        let told = Told {
            inner: Answers(Mutex::new(answers)),
            endpoint: "http://collector".into(),
            is_failing: AtomicBool::new(false),
        };
        tracing::subscriber::with_default(log, || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .build()
                .unwrap();
            for _ in 0..7 {
                let _ = runtime.block_on(told.export(Vec::new()));
            }
        });
        let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        assert_eq!(text.matches("does not accept traces").count(), 2, "{text}");
        assert_eq!(text.matches("accepts traces again").count(), 1, "{text}");
    }
}
