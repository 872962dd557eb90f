//! The architecture as tables: modules and what they may import, crates and who may name them, files that only compute.

/// Modules that every module may import.
pub(super) const LEAVES: &[&str] = &[
    "ids",
    "spec",
    "rng",
    "proto",
    "shutdown",
    "telemetry",
    "faults",
    "fair",
    "blocking",
];

/// Modules that a module may import, in addition to the leaves and itself.
pub(super) const IMPORTS: &[(&str, &[&str])] = &[
    ("ids", &[]),
    ("spec", &[]),
    ("rng", &[]),
    ("proto", &[]),
    ("shutdown", &[]),
    ("telemetry", &[]),
    ("faults", &[]),
    ("fair", &[]),
    ("blocking", &[]),
    ("store", &[]),
    ("metadata", &[]),
    ("video", &[]),
    ("synth", &[]),
    ("report", &[]),
    ("model", &[]),
    ("device", &[]),
    ("library", &["store", "metadata", "video"]),
    ("registry", &["store", "metadata"]),
    ("tenancy", &["metadata"]),
    ("engine", &["registry", "device", "model"]),
    ("exchange", &["registry", "metadata", "model"]),
    ("serving", &["engine", "library", "registry", "video"]),
    (
        "jobs",
        &[
            "library", "registry", "device", "model", "video", "store", "metadata", "serving",
        ],
    ),
    (
        "rpc",
        &[
            "serving", "exchange", "engine", "jobs", "tenancy", "library", "registry", "video",
            "metadata", "store",
        ],
    ),
    ("client", &[]),
    ("demo", &["client", "report", "synth", "video"]),
    (
        "tools",
        &[
            "model", "jobs", "video", "synth", "report", "store", "metadata", "client", "demo",
            "tenancy",
        ],
    ),
];

/// Modules that may import every module.
pub(super) const ROOTS: &[&str] = &["lib", "main", "app", "config"];

/// Crates of the workspace, each with what its modules are called where they are used. `crates/core` holds four modules of the same names.
pub(super) const CRATES: &[(&str, &str)] = &[("core", ""), ("model", "model"), ("video", "video")];

/// External crates, with the only module paths that may name them.
pub(super) const OWNERS: &[(&[&str], &[&str])] = &[
    (
        &[
            "tonic",
            "prost",
            "prost_types",
            "tonic_types",
            "tonic_health",
            "tonic_reflection",
        ],
        &["rpc", "client", "demo", "proto", "app", "tools/bench_serve"],
    ),
    (
        &["opentelemetry", "opentelemetry_sdk", "opentelemetry_otlp"],
        &["telemetry/trace"],
    ),
    (&["object_store"], &["store"]),
    (
        &["sqlx"],
        &[
            "metadata/sql/database",
            "metadata/sql/failure",
            "metadata/sql/postgres",
            "metadata/sql/schema",
            "metadata/sql/sqlite",
        ],
    ),
    (
        &["rustls", "x509_parser"],
        &[
            "tenancy/tls",
            "tenancy/oidc/fetch",
            "rpc/listener",
            "store/bucket",
        ],
    ),
    (&["jsonwebtoken"], &["tenancy/oidc"]),
    (
        &["reqwest"],
        &["tenancy/oidc/fetch", "store/download/source"],
    ),
    (&["tonic_web", "tower_http"], &["rpc/web"]),
    (&["moka"], &["store/cache"]),
    (&["tokio_rustls"], &["rpc/listener"]),
    (&["crc32fast", "getrandom", "hmac", "subtle"], &["tenancy"]),
    (
        &["candle_core", "candle_nn"],
        &[
            "model",
            "device",
            "engine/worker",
            "engine/residency",
            "engine/warmup",
            "jobs/trainer",
            "jobs/evaluation",
            "jobs/checkpoint",
            "tools",
        ],
    ),
    (&["cudarc"], &["model/ops/cuda"]),
    (&["parquet"], &["client/columnar"]),
    (
        &["ffmpeg_sys_the_third"],
        &["video/decode", "video/encode", "video/ffmpeg"],
    ),
];

/// Files that only compute: they never wait, read a clock or do I/O.
pub(super) const PURE: &[&str] = &[
    "engine/admission/share",
    "engine/batcher",
    "engine/batcher/lead",
    "engine/batcher/pace",
    "engine/batcher/sharing",
    "engine/rate",
    "fair",
    "fair/class",
    "device/schedule",
    "jobs/schedule",
    "jobs/state",
    "registry/split",
    "serving/frames/sampler",
    "serving/windows/segments",
    "tenancy/rates/share",
    "video/frames/steps",
    "video/sampling",
    "tools/bench_serve/arrivals",
    "tools/bench_serve/popularity",
    "tools/bench_serve/gates/table",
];

/// Names that a pure file must not contain. `std::time::Duration` is only a number.
pub(super) const IMPURE: &[&str] = &[
    "async ",
    ".await",
    "Instant",
    "SystemTime",
    "clock",
    "std::env",
    "std::fs",
    "std::io",
    "std::net",
    "std::os",
    "std::process",
    "std::sync",
    "std::thread",
    "println!",
    "tokio",
    "futures",
    "rayon",
    "rustix",
    "libc",
    "tracing",
    "unsafe",
];
