//! All settings, each defined once with its key, type, default and help text.
//!
//! Invariant: the flags, the keys of the file, the environment variables and the reference in `--help` are generated from one list.

use std::num::{NonZeroU16, NonZeroU32, NonZeroU64, NonZeroUsize};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::access::Methods;
use super::units::{Address, ByteSize, DeviceChoice, Ratio, Span};
use crate::spec::Digest;

macro_rules! settings {
    ($(
        $(#[doc = $doc:literal])+
        $key:ident: $kind:ident<$type:ty> $(= $default:literal)? $([$($arg:tt)+])?;
    )+) => {
        /// Settings that one layer gives: every field is optional.
        #[derive(Debug, Clone, Default, PartialEq, clap::Args, Serialize, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct Flags {
            $(
                $(#[doc = $doc])+
                #[arg(
                    long,
                    help = concat!($($doc,)+ $(" [default: ", $default, "]")?).trim_start(),
                    $($($arg)+)?
                )]
                #[serde(skip_serializing_if = "Option::is_none")]
                pub $key: Option<$type>,
            )+
        }

        /// Settings in force.
        #[derive(Debug, Clone, PartialEq, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct Settings {
            $($(#[doc = $doc])+ pub $key: settings!(@$kind $type),)+
        }

        impl Settings {
            /// Names of all keys, in the order of the reference.
            pub const KEYS: &[&str] = &[$(stringify!($key)),+];
        }

        /// Default of each key that has one, as text.
        pub const DEFAULTS: &[(&str, &str)] = &[$($((stringify!($key), $default),)?)+];
    };
    (@Must $type:ty) => { $type };
    (@May $type:ty) => { Option<$type> };
}

settings! {
    /// Address to serve on; port 0 takes a free one.
    listen: Must<Address> = "127.0.0.1:50051";
    /// File that the real address is written to once it is bound.
    address_file: May<PathBuf>;
    /// Allows listening on an address other than loopback without authentication.
    insecure_allow_anonymous: Must<bool> = "false"
        [num_args = 0..=1, default_missing_value = "true", require_equals = true];
    /// How callers prove who they are: `none`, or any of `keys` (API keys; `frameshift keys` makes them), `oidc` (tokens of OpenID Connect issuers) and
    /// `mtls` (clients' certificates), with commas between them.
    authentication: Must<Methods> = "none";
    /// Address of the administrators' API (tenants, keys, usage, audit log, replicas), while callers are authenticated; none when not set.
    admin_listen: May<Address>;
    /// File with the first operator's key, which is recorded at the start unless an operator's key exists.
    bootstrap_key_file: May<PathBuf>;
    /// File with the key (32 bytes or more) of the HMAC under which secrets of API keys are stored; plain SHA-256 when not set.
    key_pepper_file: May<PathBuf>;
    /// TOML file with the issuers of tokens, and the rules that map their subjects and names of certificates to tenants and scopes. It is loaded again
    /// when it changes.
    identities_file: May<PathBuf>;
    /// Time for which keys of an issuer that cannot be reached are used.
    issuer_stale_limit: Must<Span> = "1h";
    /// Credentials of one address that may be refused at once; one more each second. Beyond, unknown credentials from there are not looked at.
    refused_credentials_per_address: Must<NonZeroU32> = "20";
    /// Networks of proxies in front (`10.0.0.0/8`, with commas between them): what they add to `x-forwarded-for` counts as the address of a caller, in the
    /// audit log and for the limit of refused credentials.
    trusted_proxies: May<String>;
    /// `behind-proxy`: a proxy in front encrypts, so authenticated calls are accepted in plain text from other machines.
    plaintext: May<Plaintext>;
    /// Who may list the services by gRPC reflection: `on` (everybody), `authenticated` or `off`.
    reflection: Must<Reflection> = "on";
    /// Origins (`https://HOST[:PORT]`, with commas between them) of pages whose browsers may call by gRPC-Web, over HTTP/1.1, too; off when not set.
    grpc_web_origins: May<String>;
    /// PEM file with the server's certificate and its chain; turns on TLS on `listen` and `admin_listen`. The files are loaded again when they change.
    tls_certificate: May<PathBuf>;
    /// PEM file with the key of `tls_certificate`.
    tls_key: May<PathBuf>;
    /// PEM file with the authorities of clients' certificates; without it clients need no certificate.
    tls_client_ca: May<PathBuf>;
    /// PEM file with the lists of revoked certificates (CRL) of the authorities in `tls_client_ca`, one of each.
    tls_client_crl: May<PathBuf>;
    /// Whether clients need a certificate when `tls_client_ca` is set: `required` or `optional`.
    tls_client_certificates: Must<ClientCertificates> = "required";
    /// What the process does: `all`, `serve` (the API, no training) or `train` (jobs, health and metrics, no API).
    role: Must<Role> = "all";
    /// Time without a job after which a process with `role = "train"` ends with exit code 0; it stays when not set.
    exit_when_idle: May<Span>;
    /// Folder of all durable state, except for what `database_url` and `objects_url` keep elsewhere; one process at a time.
    data_dir: Must<PathBuf> = "frameshift-data";
    /// URL of a PostgreSQL database that several servers share, for example postgres://frameshift@db:5432/frameshift, without a password; the records
    /// are in a file in `data_dir` when not set. Across a network the server's certificate is checked, unless `sslmode` says otherwise.
    database_url: May<String>;
    /// URL of the same database past a connection pooler, when `database_url` leads through one that pools by transaction, such as PgBouncer: servers
    /// listen for each other's changes there, and bring the schema up to date there.
    database_listen_url: May<String>;
    /// File with the password for `database_url` and `database_listen_url`; it is read again once a minute.
    database_password_file: May<PathBuf>;
    /// Most connections to `database_url`.
    database_connections: Must<NonZeroU32> = "10";
    /// Longest time that a call waits for a connection to `database_url`.
    database_timeout: Must<Span> = "3s";
    /// Longest time that a statement on `database_url` runs.
    database_statement_timeout: Must<Span> = "30s";
    /// Longest time that the start waits for `database_url`.
    database_start_timeout: Must<Span> = "5m";
    /// Whether the start brings the schema on `database_url` up to date; otherwise `frameshift migrate` does, and a schema that is too old is refused.
    database_migrate: Must<bool> = "true";
    /// Whether servers tell each other of changes by NOTIFY and LISTEN; otherwise each finds them by asking every few seconds.
    database_hints: Must<bool> = "true"
        [num_args = 0..=1, default_missing_value = "true", require_equals = true];
    /// Bucket of the objects: `s3://BUCKET/PREFIX`, `gs://BUCKET/PREFIX` or `az://CONTAINER/PREFIX`; the folder `objects` of the data directory when
    /// not set.
    objects_url: May<String>;
    /// URL of a self-hosted object store with the API of the bucket's kind; the platform's own when not set.
    objects_endpoint: May<String>;
    /// File with the bucket's static credentials, `NAME = VALUE` a line with the names of the platform's environment variables; the environment or
    /// the platform's workload identity when not set.
    objects_credentials_file: May<PathBuf>;
    /// Folder on a local disk for copies of objects that are read; the folder `cache` of the data directory when `objects_url` is set, else none.
    cache_dir: May<PathBuf>;
    /// Disk space for copies of objects; those that are being made take up to a quarter more. 0 turns the copies off.
    cache_bytes: Must<ByteSize> = "20GiB";
    /// Starts although the database lost changes or does not belong to the objects beside it; for one start only.
    accept_data_loss: Must<bool> = "false"
        [num_args = 0..=1, default_missing_value = "true", require_equals = true];
    /// Image backbone: `builtin`, or a folder or file with the weights of a CLIP or ViT.
    backbone: Must<PathBuf> = "builtin";
    /// Backbone settings that its files do not state, or state wrongly: `heads=…,activation=gelu|quick_gelu,eps=…,mean=r/g/b,std=r/g/b`.
    backbone_override: May<String>;
    /// Digest that the backbone must have, as `frameshift inspect` shows it: the start fails with any other. Every backbone is taken when not set.
    backbone_digest: May<Digest>;
    /// Address of the Prometheus endpoint; the log's filter can be changed there, too; none when not set.
    metrics_listen: May<Address>;
    /// URL of an OpenTelemetry collector that takes traces over gRPC (OTLP), for example http://127.0.0.1:4317; no traces when not set.
    otlp_endpoint: May<String>;
    /// Share of the requests without a `traceparent` that are traced, from 0 to 1.
    trace_ratio: Must<Ratio> = "1";
    /// Log lines as `text` or `json`.
    log_format: Must<LogFormat> = "text";
    /// Filter of log lines, in the syntax of RUST_LOG.
    log: Must<String> = "info";
    /// Number format of matrix products: `f32`, `bf16`, `int8` (frozen layers; bf16 elsewhere), or `auto`, the fastest of the first two.
    precision: Must<PrecisionChoice> = "auto";
    /// Device that computes: `cpu`, `cuda:N` (an NVIDIA GPU, by its number), or `auto`, the first GPU if it can be used, else the CPU.
    device: Must<DeviceChoice> = "auto";
    /// Threads of the numeric code; the number of physical cores when not set.
    compute_threads: May<NonZeroUsize> [visible_alias = "threads"];
    /// Largest size of an uploaded video.
    upload_limit: Must<ByteSize> = "1GiB";
    /// Time without a write after which an unfinished upload expires.
    upload_expiry: Must<Span> = "1day";
    /// Most unfinished uploads of one tenant.
    uploads_per_tenant: Must<NonZeroU32> = "256";
    /// Most bytes of one tenant's unfinished uploads, all together.
    upload_bytes_per_tenant: Must<ByteSize> = "64GiB";
    /// Most examples of one tenant's data sets, all together; no limit when not set.
    examples_per_tenant: May<NonZeroU64>;
    /// Most calls of one tenant that are under way at a time on this server, streams included; no limit when not set.
    requests_per_tenant: May<NonZeroU32>;
    /// Most clips of one tenant that wait or run at a time on this server; when not set, `queue_clips` and the other tenants alone limit them.
    clips_per_tenant: May<NonZeroU32>;
    /// Most clips that wait or run at a time, of all tenants. A tenant that is alone may hold seven eighths of them.
    queue_clips: Must<NonZeroUsize> = "256";
    /// Memory of the frames of clips that wait or run; an eighth of the memory that this process may use when not set, at least 256 MiB.
    queue_memory: May<ByteSize>;
    /// Most clips in one batch.
    batch_clips: Must<NonZeroUsize> = "16";
    /// Memory of one batch's activations; when not set, an eighth of the memory that this process may use, or of the GPU's, at least 256 MiB. A single clip
    /// always runs.
    batch_memory: May<ByteSize>;
    /// Longest time that a batch should take while more than one tenant sends requests, or one tenant of both priorities; an eighth of it while one of
    /// them asks for much less than its share. It bounds the wait of a quiet tenant beside a flood. A single clip always runs.
    batch_time: Must<Span> = "100ms";
    /// Memory of resident adapter sets.
    adapter_memory: Must<ByteSize> = "1GiB";
    /// Memory for files of versions, so that a set that was evicted is loaded again without a read of the store. When not set, 64 MiB with a GPU and none on
    /// the CPU, where device and host share one memory and a file there would be its set a second time: raise `adapter_memory` to serve more sets at once.
    host_adapter_memory: May<ByteSize>;
    /// Time for which known tasks are still classified while the database is unavailable.
    stale_limit: Must<Span> = "15m";
    /// Share of the device's time, from 0 to 0.9, that training keeps while classification keeps the device busy. Either may use what the other leaves;
    /// at 0, jobs train only while nobody classifies.
    training_share: Must<Ratio> = "0.1";
    /// Most jobs that train at a time.
    job_runners: Must<NonZeroUsize> = "2";
    /// Memory of one job's training, in all; when not set, a quarter of the machine's (or its control group's, or the GPU's) divided by `job_runners`.
    step_memory: May<ByteSize>;
    /// Disk space for the frozen features of one job that trains a linear probe; a job that needs more is refused.
    feature_bytes: Must<ByteSize> = "8GiB";
    /// Disk space in `data_dir` for decoded frames of training and validation clips, which later epochs, jobs and sweeps of the same tenant read in place of
    /// decoding the videos again; 0B keeps none.
    decoded_bytes: Must<ByteSize> = "0B";
    /// Unfinished jobs of one tenant.
    jobs_per_tenant: Must<NonZeroU32> = "16";
    /// Most streams of job events that one tenant may have open.
    watchers_per_tenant: Must<NonZeroUsize> = "256";
    /// Time after which a job whose worker has not renewed its lease is taken over.
    job_lease: Must<Span> = "30s";
    /// Time for which finished jobs are kept; 0s keeps them forever.
    job_retention: Must<Span> = "90days";
    /// Time for which the events of finished jobs are kept, except changes of state; 0s keeps them as long as the job.
    event_retention: Must<Span> = "30days";
    /// Time from the start to the first search for files that no record names; later searches run every hour, in a bucket every day.
    collect_after: Must<Span> = "6h";
    /// Largest share of all files, in percent, that one search removes: when more files have no record it removes none and logs a warning; 100
    /// removes all.
    collect_share: Must<u8> = "20" [value_parser = clap::value_parser!(u8).range(0..=100)];
    /// Number of video worker processes; the number of cores when not set.
    video_workers: May<NonZeroUsize>;
    /// Longest wall-clock time to decode one video.
    video_wall_time: Must<Span> = "30s";
    /// Longest processor time to decode one video.
    video_cpu_time: Must<Span> = "20s";
    /// Memory of one video worker.
    video_memory: Must<ByteSize> = "1GiB";
    /// Largest frame of a video in pixels.
    video_pixels: Must<NonZeroU32> = "9437184";
    /// Most packets of a video.
    video_packets: Must<NonZeroU32> = "400000";
    /// Most frames of a video.
    video_frames: Must<NonZeroU32> = "216000";
    /// Most streams of a video, of all kinds.
    video_streams: Must<NonZeroU16> = "16";
    /// Longest duration of a video, from its first to its last frame.
    video_duration: Must<Span> = "3h";
    /// Confines video workers with Landlock and seccomp, of which the kernel must support at least one; `off` serves without.
    video_sandbox: Must<Sandbox> = "on";
    /// Age at which a connection is asked to close; requests in flight finish.
    connection_age: Must<Span> = "1h";
    /// Time without traffic after which a connection is probed.
    keepalive_interval: Must<Span> = "30s";
    /// Longest time for a connection to answer a keep-alive probe.
    keepalive_timeout: Must<Span> = "20s";
    /// Most connections at a time; further ones are closed at once.
    connections: Must<NonZeroUsize> = "512";
    /// Memory of messages that are being received, of all calls; an eighth of the memory that this process may use when not set.
    message_memory: May<ByteSize>;
    /// Memory of uploads, of small files of one request, and of imports; a sixteenth of the memory that this process may use when not set.
    upload_memory: May<ByteSize>;
    /// Disk space of larger files that belong to one request (classify-upload and import); they are deleted when it ends.
    spool_bytes: Must<ByteSize> = "4GiB";
    /// Most client streams of one tenant at a time, not counting live streams.
    streams_per_tenant: Must<NonZeroUsize> = "64";
    /// Most live streams (ClassifyFrames) of one tenant at a time.
    live_streams_per_tenant: Must<NonZeroUsize> = "32";
    /// Memory of all live streams: waiting frames, and the views of frames that windows need.
    live_memory: Must<ByteSize> = "512MiB";
    /// Time without a message after which a client's stream is ended.
    stream_idle: Must<Span> = "30s";
    /// Deadline of a unary call whose caller sets none, and the longest time that one message of a stream may take.
    call_deadline: Must<Span> = "2m";
    /// Time after the start of a drain in which new calls are still served; it ends sooner when all clients have disconnected.
    drain_grace: Must<Span> = "5s";
    /// Longest time that a drain waits, after the grace period, for requests in flight and for a job's checkpoint.
    drain_timeout: Must<Span> = "30s";
    /// Crash point at which the process kills itself; for tests of durability.
    crash_at: May<String> [hide = true];
    /// Best instruction set that the process may use; for tests of every instruction set on one machine.
    cpu: May<String> [hide = true];
}

/// Format of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// Text for people.
    Text,
    /// Each line is a JSON object.
    Json,
}

/// Why callers on other machines may be heard in plain text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Plaintext {
    /// A proxy in front encrypts.
    BehindProxy,
}

/// Callers that may list the services by reflection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reflection {
    /// Everybody.
    On,
    /// Callers with a credential.
    Authenticated,
    /// Nobody.
    Off,
}

/// What a process does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// The API and training.
    All,
    /// The API alone; other processes train.
    Serve,
    /// Training alone; other processes serve.
    Train,
}

impl Role {
    /// Returns whether the process serves the API.
    pub fn serves(self) -> bool {
        self != Self::Train
    }

    /// Returns whether the process works on jobs.
    pub fn trains(self) -> bool {
        self != Self::Serve
    }
}

/// Whether clients have to show a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClientCertificates {
    /// Every client has to show a certificate.
    Required,
    /// A client may come without a certificate, but not with a bad one.
    Optional,
}

/// Number format of matrix products.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PrecisionChoice {
    /// bf16 where the CPU multiplies it faster than f32, else f32.
    Auto,
    /// 32-bit floats.
    F32,
    /// bfloat16.
    Bf16,
    /// 8-bit integers in the frozen layers, bfloat16 elsewhere.
    Int8,
}

/// Whether video workers are confined by the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sandbox {
    /// Confinement is required.
    On,
    /// Confinement is not required.
    Off,
}

impl Flags {
    /// Returns the keys that were given, with their values.
    pub fn given(&self) -> toml::Table {
        // Every field serialises as a number, a switch or text, so this cannot fail; an empty table would only mean that no flag was given.
        toml::Table::try_from(self).unwrap_or_default()
    }
}
