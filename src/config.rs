//! The configuration: that of every component, composed and validated.
//!
//! Defaults < TOML file (`--config` or `FRAMESHIFT_CONFIG`) < environment (`FRAMESHIFT_…`) < flags; a key has the same name in all of them.
//! Invariant: a [`Config`] is valid; an error names the key and the source of the value.

pub mod access;
mod calls;
pub mod cli;
pub mod database;
mod derived;
pub mod load;
pub mod machine;
mod objects;
pub mod settings;
pub mod units;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::num::{NonZeroU64, NonZeroUsize};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::library::Retention;
use crate::metadata::UploadLimits;
use crate::model::Isa;
use crate::model::load::Overrides;
use crate::spec::{Digest, Precision};
use crate::{
    device, engine, faults, jobs, library, metadata, registry, rpc, store, telemetry, tenancy,
    video,
};
use derived::{Left, share, step_bytes};
use load::{Error, Layered};
use settings::{Flags, LogFormat, PrecisionChoice, Role, Sandbox, Settings};
use units::Span;

/// Configuration of a whole server.
#[derive(Debug, Clone)]
pub struct Config {
    /// Address of the API.
    pub listen: SocketAddr,
    /// Address of the administrators' API; none when not set.
    pub admin_listen: Option<SocketAddr>,
    /// What the process does.
    pub role: Role,
    /// Time without a job after which a process that only trains ends; it stays when not set.
    pub exit_when_idle: Option<Duration>,
    /// Authentication of callers, and the limits of what is kept about them.
    pub tenancy: tenancy::Config,
    /// Files of TLS; connections are in plain text without.
    pub tls: Option<tenancy::tls::Config>,
    /// File that the real address is written to once it is bound.
    pub address_file: Option<PathBuf>,
    /// Folder of all durable state.
    pub data_dir: PathBuf,
    /// The PostgreSQL server with the records; a file in `data_dir` has them when not set.
    pub database_server: Option<metadata::ServerConfig>,
    /// Bucket of the objects; the folder `objects` of the data directory when not set.
    pub objects: Option<store::Bucket>,
    /// Copies of objects on a local disk; none when not set.
    pub cache: Option<store::cache::Config>,
    /// Whether to start although the database lost changes or does not belong to the objects beside it.
    pub accept_data_loss: bool,
    /// Which backbone to load.
    pub backbone: Backbone,
    /// Backbone settings that the operator gives in place of those from its files.
    pub backbone_override: Overrides,
    /// Digest that the backbone must have; every backbone is taken when not set.
    pub backbone_digest: Option<Digest>,
    /// Address of the Prometheus endpoint; none when not set.
    pub metrics_listen: Option<SocketAddr>,
    /// Where traces are sent; nowhere when not set.
    pub traces: Option<telemetry::trace::Config>,
    /// Format of log lines.
    pub log_format: telemetry::LogFormat,
    /// Filter of log lines, in the syntax of RUST_LOG.
    pub log_filter: String,
    /// Number format of matrix products; `None` chooses the fastest among f32 and bf16.
    pub precision: Option<Precision>,
    /// What the model computes on.
    pub accelerator: units::DeviceChoice,
    /// Sizes that are chosen by the memory of what the model computes on.
    pub left: Left,
    /// Threads of the numeric code; `None` takes as many as there are physical cores.
    pub compute_threads: Option<NonZeroUsize>,
    /// Largest uploaded video in bytes.
    pub upload_limit: u64,
    /// Videos and data sets, and how long finished records stay; `upload_bytes` of it equals `upload_limit`.
    pub library: library::Config,
    /// Time from the start to the first search for orphaned objects.
    pub collect_after: Duration,
    /// Longest time that a drain waits after the grace period.
    pub drain_timeout: Duration,
    /// Crash point at which the process kills itself; for tests.
    pub crash_at: Option<faults::Crash>,
    /// Best instruction set that the process may use; for tests.
    pub cpu: Option<Isa>,
    /// Faults that the database injects; for tests.
    pub database_faults: metadata::Faults,
    /// Connections and calls.
    pub rpc: rpc::Config,
    /// Decoding of videos.
    pub video: video::Config,
    /// The device thread.
    pub device: device::Config,
    /// Tasks and versions.
    pub registry: registry::Config,
    /// Classification.
    pub engine: engine::Config,
    /// Fine-tuning.
    pub jobs: jobs::Config,
}

/// Choice of a backbone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Backbone {
    /// The backbone that is built into the program.
    Builtin,
    /// Weights in a folder or file.
    Path(PathBuf),
}

impl Config {
    /// Validates the merged settings. `program` is the path of this program's executable, which video workers run.
    ///
    /// # Errors
    /// When a value is not valid; the error names its key and source.
    pub fn new(layers: &Layered, program: PathBuf) -> Result<Self, Error> {
        let settings = layers.settings()?;
        let tenancy = access::config(layers, &settings)?;
        positive(layers, &settings)?;
        let crash_at = settings.crash_at.as_deref().map(str::parse).transpose();
        let cpu = settings.cpu.as_deref().map(str::parse).transpose();
        let said = settings.backbone_override.as_deref().unwrap_or_default();
        let backbone_override = said.parse().map_err(|error: crate::spec::Invalid| {
            layers.complain("backbone_override", error.problem)
        })?;
        Ok(Self {
            listen: settings.listen.0,
            admin_listen: settings.admin_listen.map(|address| address.0),
            role: settings.role,
            exit_when_idle: exit_when_idle(layers, &settings)?,
            tenancy,
            tls: access::tls(layers, &settings)?,
            address_file: settings.address_file.clone(),
            data_dir: settings.data_dir.clone(),
            database_server: database::server(layers, &settings)?,
            objects: objects::bucket(layers, &settings)?,
            cache: objects::cache(&settings),
            accept_data_loss: settings.accept_data_loss,
            backbone: match settings.backbone.to_str() {
                Some("builtin") => Backbone::Builtin,
                Some(_) | None => Backbone::Path(settings.backbone.clone()),
            },
            backbone_override,
            backbone_digest: settings.backbone_digest,
            metrics_listen: settings.metrics_listen.map(|address| address.0),
            traces: traces_config(layers, &settings)?,
            log_format: match settings.log_format {
                LogFormat::Text => telemetry::LogFormat::Text,
                LogFormat::Json => telemetry::LogFormat::Json,
            },
            log_filter: settings.log.clone(),
            precision: match settings.precision {
                PrecisionChoice::Auto => None,
                PrecisionChoice::F32 => Some(Precision::F32),
                PrecisionChoice::Bf16 => Some(Precision::Bf16),
                PrecisionChoice::Int8 => Some(Precision::Int8),
            },
            accelerator: settings.device,
            left: Left::of(&settings),
            compute_threads: settings.compute_threads,
            upload_limit: settings.upload_limit.0,
            library: library_config(layers, &settings)?,
            collect_after: settings.collect_after.0,
            drain_timeout: settings.drain_timeout.0,
            crash_at: crash_at
                .map_err(|error: faults::Unknown| layers.complain("crash_at", error.to_string()))?,
            cpu: cpu
                .map_err(|error: crate::spec::Invalid| layers.complain("cpu", error.problem))?,
            database_faults: metadata::Faults::default(),
            rpc: calls::config(layers, &settings)?,
            video: video_config(&settings, program),
            device: device_config(layers, &settings)?,
            registry: registry::Config {
                cache_bytes: settings.host_adapter_memory.map_or(0, |given| given.0),
                stale_limit: settings.stale_limit.0,
                ..registry::Config::default()
            },
            engine: engine_config(&settings),
            jobs: jobs::Config {
                runners: settings.job_runners.get(),
                unfinished_per_tenant: settings.jobs_per_tenant.get(),
                lease: settings.job_lease.0,
                step_bytes: step_bytes(&settings),
                feature_bytes: settings.feature_bytes.0,
                clip_disk_bytes: settings.decoded_bytes.0,
                watchers_per_tenant: settings.watchers_per_tenant.get(),
                ..jobs::Config::default()
            },
        })
    }

    /// Returns the configuration of the database in the data directory.
    pub fn database(&self) -> metadata::Config {
        metadata::Config {
            accept_data_loss: self.accept_data_loss,
            faults: self.database_faults.clone(),
            ..metadata::Config::at(self.data_dir.join("metadata.sqlite"))
        }
    }

    /// Returns the bucket of the objects; none when they are in the data directory. For commands that need nothing else of the configuration.
    ///
    /// # Errors
    /// When a value is not valid; the error names its key and source.
    pub fn bucket(layers: &Layered, settings: &Settings) -> Result<Option<store::Bucket>, Error> {
        objects::bucket(layers, settings)
    }

    /// Merges the layers and validates the result.
    ///
    /// # Errors
    /// When a layer cannot be read or a value is not valid; the error names the key and its source.
    pub fn load(
        file: Option<&Path>,
        environment: &BTreeMap<String, String>,
        flags: &Flags,
        program: PathBuf,
    ) -> Result<Self, Error> {
        Self::new(&Layered::load(file, environment, flags)?, program)
    }
}

/// Returns the time after which a process that only trains ends.
fn exit_when_idle(layers: &Layered, settings: &Settings) -> Result<Option<Duration>, Error> {
    let trains_only = !settings.role.serves();
    let idle = settings.exit_when_idle.map(|idle| idle.0);
    if idle.is_some() && !trains_only {
        return Err(layers.complain("exit_when_idle", "needs role = \"train\""));
    }
    if idle.is_some_and(|idle| idle.is_zero()) {
        return Err(layers.complain("exit_when_idle", "expected more than 0"));
    }
    if trains_only && settings.address_file.is_some() {
        let problem = "has no meaning with role = \"train\", which serves no API";
        return Err(layers.complain("address_file", problem));
    }
    Ok(idle)
}

/// Refuses zero where the server could not work with it.
fn positive(layers: &Layered, settings: &Settings) -> Result<(), Error> {
    let spans = [
        ("batch_time", settings.batch_time),
        ("job_lease", settings.job_lease),
        ("upload_expiry", settings.upload_expiry),
        ("video_wall_time", settings.video_wall_time),
        ("video_cpu_time", settings.video_cpu_time),
        ("video_duration", settings.video_duration),
        ("connection_age", settings.connection_age),
        ("keepalive_interval", settings.keepalive_interval),
        ("keepalive_timeout", settings.keepalive_timeout),
        ("stream_idle", settings.stream_idle),
        ("call_deadline", settings.call_deadline),
    ];
    for (key, span) in spans {
        if span.0.is_zero() {
            return Err(layers.complain(key, "expected more than 0"));
        }
    }
    let sizes = [
        ("upload_limit", Some(settings.upload_limit)),
        (
            "upload_bytes_per_tenant",
            Some(settings.upload_bytes_per_tenant),
        ),
        ("queue_memory", settings.queue_memory),
        ("batch_memory", settings.batch_memory),
        ("adapter_memory", Some(settings.adapter_memory)),
        ("video_memory", Some(settings.video_memory)),
        ("step_memory", settings.step_memory),
        ("feature_bytes", Some(settings.feature_bytes)),
        ("live_memory", Some(settings.live_memory)),
    ];
    for (key, size) in sizes {
        if size.is_some_and(|size| size.0 == 0) {
            return Err(layers.complain(key, "expected more than 0"));
        }
    }
    Ok(())
}

/// The collector's URL is validated here, since it is used long after the start.
fn traces_config(
    layers: &Layered,
    settings: &Settings,
) -> Result<Option<telemetry::trace::Config>, Error> {
    let Some(endpoint) = settings.otlp_endpoint.clone() else {
        return Ok(None);
    };
    let is_plain = endpoint.parse::<http::Uri>().is_ok_and(|url| {
        let has_path = url.path().len() > 1 || url.query().is_some();
        url.scheme_str() == Some("http") && url.host().is_some() && !has_path
    });
    if !is_plain {
        let problem = format!(
            "expected http://HOST:PORT of a collector that takes OTLP over gRPC, without TLS, got {endpoint:?}"
        );
        return Err(layers.complain("otlp_endpoint", problem));
    }
    let ratio = settings.trace_ratio.0;
    Ok(Some(telemetry::trace::Config { endpoint, ratio }))
}

fn device_config(layers: &Layered, settings: &Settings) -> Result<device::Config, Error> {
    let share = settings.training_share.0;
    if share > 0.9 {
        return Err(layers.complain("training_share", "expected 0 to 0.9"));
    }
    Ok(device::Config {
        // Thousandths, of which there are 900 at most.
        training_share: (share * 1000.0).round() as u32,
        ..device::Config::default()
    })
}

fn engine_config(settings: &Settings) -> engine::Config {
    engine::Config {
        queue_clips: settings.queue_clips.get(),
        queue_bytes: share(settings.queue_memory),
        batch_clips: settings.batch_clips.get(),
        batch_bytes: share(settings.batch_memory),
        batch_time: settings.batch_time.0,
        residency_bytes: settings.adapter_memory.0,
        ..engine::Config::default()
    }
}

fn library_config(layers: &Layered, settings: &Settings) -> Result<library::Config, Error> {
    if settings.collect_share > 100 {
        return Err(layers.complain("collect_share", "expected 0 to 100"));
    }
    let kept = |span: Span| Some(span.0).filter(|age| !age.is_zero());
    Ok(library::Config {
        upload_bytes: settings.upload_limit.0,
        orphan_share: settings.collect_share,
        uploads: UploadLimits {
            expiry: settings.upload_expiry.0,
            uploads: settings.uploads_per_tenant.get(),
            bytes: settings.upload_bytes_per_tenant.0,
        },
        examples: settings.examples_per_tenant.map(NonZeroU64::get),
        retention: Retention {
            events: kept(settings.event_retention),
            jobs: kept(settings.job_retention),
            ..Retention::default()
        },
        ..library::Config::default()
    })
}

fn video_config(settings: &Settings, program: PathBuf) -> video::Config {
    let mut config = video::Config::new(program);
    config.arguments = vec![OsString::from(cli::VIDEO_WORKER)];
    if let Some(workers) = settings.video_workers {
        config.workers = workers.get();
    }
    config.limits.bytes = settings.upload_limit.0;
    config.limits.wall = settings.video_wall_time.0;
    config.limits.cpu = settings.video_cpu_time.0;
    config.limits.memory = settings.video_memory.0;
    config.limits.pixels = settings.video_pixels.get();
    config.limits.packets = settings.video_packets.get();
    config.limits.frames = settings.video_frames.get();
    config.limits.streams = settings.video_streams.get();
    config.limits.duration = settings.video_duration.0;
    config.layers = match settings.video_sandbox {
        Sandbox::On => video::Layers::ALL,
        Sandbox::Off => video::Layers::PLAIN,
    };
    config
}

/// Returns the process's environment as the loader expects it. Names and values that are not valid UTF-8 are left out.
pub fn environment() -> BTreeMap<String, String> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}

#[cfg(test)]
mod tests;
