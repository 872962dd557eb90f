//! Results of the layers, and errors of wrong values.

mod objects;
mod readme;
mod words;

use super::*;
use clap::Parser;

fn environment(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs
        .iter()
        .map(|(name, value)| ((*name).into(), (*value).into()))
        .collect()
}

fn flags(arguments: &[&str]) -> Flags {
    let words = ["frameshift", "serve"].iter().chain(arguments);
    let command = cli::Cli::parse_from(words).command;
    let cli::Command::Serve(serve) = command else {
        panic!("{command:?}");
    };
    serve.flags
}

fn load(
    file: Option<&str>,
    variables: &[(&str, &str)],
    arguments: &[&str],
) -> Result<Config, Error> {
    let file = file.map(|text| {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        file
    });
    let path = file.as_ref().map(tempfile::NamedTempFile::path);
    let program = PathBuf::from("frameshift");
    Config::load(path, &environment(variables), &flags(arguments), program)
}

#[test]
fn a_later_layer_wins() {
    let file = "queue_clips = 10\nbatch_clips = 2\nupload_limit = \"2GiB\"\nlog = \"debug\"";
    let variables = [
        ("FRAMESHIFT_QUEUE_CLIPS", "20"),
        ("FRAMESHIFT_BATCH_CLIPS", "4"),
    ];
    let config = load(Some(file), &variables, &["--queue-clips", "30"]).unwrap();
    assert_eq!(config.engine.queue_clips, 30);
    assert_eq!(config.engine.batch_clips, 4);
    assert_eq!(config.upload_limit, 2 << 30);
    assert_eq!(config.video.limits.bytes, 2 << 30);
    assert_eq!(config.log_filter, "debug");
    assert_eq!(config.listen.to_string(), "127.0.0.1:50051");
}

#[test]
fn memory_is_a_share_of_the_machines_unless_it_is_given() {
    let config = load(None, &[], &[]).unwrap();
    let eighth = (machine::memory().unwrap() / 8).max(256 << 20);
    let engine = config.engine;
    assert_eq!((engine.queue_bytes, engine.batch_bytes), (eighth, eighth));
    let engine = load(Some("queue_memory = \"3MiB\""), &[], &[]);
    let engine = engine.unwrap().engine;
    assert_eq!((engine.queue_bytes, engine.batch_bytes), (3 << 20, eighth));
}

#[test]
fn what_is_computed_with_is_a_share_of_the_memory_of_a_device_unless_it_is_given() {
    let mut config = load(None, &[], &[]).unwrap();
    let before = config.engine.queue_bytes;
    config.compute_in(80 << 30);
    assert_eq!(config.engine.batch_bytes, 10 << 30);
    assert_eq!(config.jobs.step_bytes, 10 << 30);
    assert_eq!(config.engine.queue_bytes, before, "clips wait on the host");
    let given = "batch_memory = \"3MiB\"\nstep_memory = \"5MiB\"\nhost_adapter_memory = \"7MiB\"";
    let mut config = load(Some(given), &[], &[]).unwrap();
    config.compute_in(80 << 30);
    let own = (config.engine.batch_bytes, config.jobs.step_bytes);
    assert_eq!(own, (3 << 20, 5 << 20));
    assert_eq!(config.registry.cache_bytes, 7 << 20);
}

#[test]
fn files_of_versions_are_kept_in_memory_beside_a_device_or_where_it_is_asked_for() {
    let mut config = load(None, &[], &[]).unwrap();
    assert_eq!(config.registry.cache_bytes, 0, "the CPU has the sets there");
    config.compute_in(80 << 30);
    assert_eq!(config.registry.cache_bytes, 64 << 20);
    let given = load(Some("host_adapter_memory = \"7MiB\""), &[], &[]).unwrap();
    assert_eq!(given.registry.cache_bytes, 7 << 20);
}

#[test]
fn the_file_can_be_named_by_the_environment() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("frameshift.toml");
    std::fs::write(&path, "job_runners = 7").unwrap();
    let variables = [(load::FILE_VARIABLE, path.to_str().unwrap())];
    assert_eq!(load(None, &variables, &[]).unwrap().jobs.runners, 7);
}

#[test]
fn a_wrong_value_names_its_key_and_where_it_came_from() {
    let message = |result: Result<Config, Error>| result.map(drop).unwrap_err().to_string();
    let cases = [
        (
            message(load(None, &[("FRAMESHIFT_UPLOAD_LIMIT", "much")], &[])),
            [
                "upload_limit:",
                "environment variable FRAMESHIFT_UPLOAD_LIMIT",
            ],
        ),
        (
            message(load(Some("upload_limits = 5"), &[], &[])),
            ["upload_limits: no such key", "from file /"],
        ),
        (
            message(load(Some("queue_clips = 0"), &[], &[])),
            ["queue_clips:", "expected a number above 0"],
        ),
        (
            message(load(Some("queue_clips = \"many\""), &[], &[])),
            ["queue_clips:", "from file /"],
        ),
        (
            message(load(Some("queue_clips ="), &[], &[])),
            ["is not TOML", "queue_clips"],
        ),
        (
            message(load(None, &[("FRAMESHIFT_JOB_LEASE", "0s")], &[])),
            ["job_lease: expected more than 0", "FRAMESHIFT_JOB_LEASE"],
        ),
        (
            message(load(None, &[], &["--crash-at", "nowhere"])),
            ["crash_at:", "flag --crash-at"],
        ),
        (
            message(load(None, &[("FRAMESHIFT_CPU", "sse9")], &[])),
            ["cpu: expected one of", "FRAMESHIFT_CPU"],
        ),
        (
            message(load(None, &[(load::FILE_VARIABLE, "/nowhere.toml")], &[])),
            ["cannot read", "/nowhere.toml"],
        ),
    ];
    for (message, parts) in cases {
        for part in parts {
            assert!(message.contains(part), "{part:?} is not in {message:?}");
        }
    }
}

#[test]
fn an_address_that_others_can_reach_has_to_be_asked_for_twice() {
    let refused = load(None, &[], &["--listen", "0.0.0.0:50051"]).unwrap_err();
    let message = refused.to_string();
    assert!(message.contains("--insecure-allow-anonymous") && message.contains("--listen"));
    let accepted = ["--listen", "0.0.0.0:50051", "--insecure-allow-anonymous"];
    assert!(load(None, &[], &accepted).is_ok());
    assert!(load(None, &[], &["--listen", "[::1]:0"]).is_ok());
}

#[test]
fn authentication_is_a_list_in_the_file_and_words_elsewhere() {
    let keys = |config: Result<Config, Error>| config.unwrap().tenancy.methods.len();
    assert_eq!(keys(load(None, &[], &[])), 0);
    assert_eq!(keys(load(Some("authentication = []"), &[], &[])), 0);
    assert_eq!(keys(load(Some("authentication = [\"keys\"]"), &[], &[])), 1);
    assert_eq!(
        keys(load(None, &[("FRAMESHIFT_AUTHENTICATION", "keys")], &[])),
        1
    );
    assert_eq!(keys(load(None, &[], &["--authentication", "keys"])), 1);
    let wrong = load(Some("authentication = [\"passwords\"]"), &[], &[]).unwrap_err();
    let message = wrong.to_string();
    assert!(
        message.contains("authentication:") && message.contains("passwords"),
        "{message}"
    );
}

#[test]
fn settings_that_contradict_authentication_are_refused() {
    let refused = |flags: &[&str]| load(None, &[], flags).unwrap_err().to_string();
    let anonymous = ["--authentication", "keys", "--insecure-allow-anonymous"];
    assert!(refused(&anonymous).contains("insecure_allow_anonymous:"));
    for needless in [
        "--admin-listen=127.0.0.1:0",
        "--key-pepper-file=x",
        "--bootstrap-key-file=x",
        "--identities-file=x",
    ] {
        assert!(
            refused(&[needless]).contains("authentication is none"),
            "{needless}"
        );
    }
    for (flags, key) in [
        (&["--tls-certificate=x"][..], "tls_certificate:"),
        (&["--tls-key=x"], "tls_key:"),
        (&["--tls-client-ca=x"], "tls_client_ca:"),
        (&["--tls-client-crl=x"], "tls_client_crl:"),
        (&["--authentication=oidc"], "authentication:"),
        (
            &["--authentication=keys", "--identities-file=x"],
            "identities_file:",
        ),
        (
            &["--authentication=keys,mtls", "--identities-file=x"],
            "authentication: mtls needs tls_client_ca",
        ),
        (
            &[
                "--tls-certificate=x",
                "--tls-key=x",
                "--plaintext=behind-proxy",
            ],
            "plaintext:",
        ),
    ] {
        assert!(refused(flags).contains(key), "{flags:?}");
    }
    let all = [
        "--authentication=keys,oidc,mtls",
        "--identities-file=x",
        "--tls-client-ca=x",
        "--tls-certificate=x",
        "--tls-key=x",
    ];
    let config = load(None, &[], &all).unwrap();
    assert_eq!(config.tenancy.methods.len(), 3);
    assert!(refused(&["--trusted-proxies=10.0.0.0/33"]).contains("trusted_proxies:"));
    assert!(refused(&["--reflection", "authenticated"]).contains("reflection:"));
    for address in ["--listen=0.0.0.0:1", "--admin-listen=0.0.0.0:1"] {
        let message = refused(&["--authentication=keys", address]);
        assert!(message.contains("plain text"), "{message}");
        let proxied = ["--authentication=keys", address, "--plaintext=behind-proxy"];
        assert!(load(None, &[], &proxied).is_ok());
        let encrypted = [
            "--authentication=keys",
            address,
            "--tls-certificate=x",
            "--tls-key=x",
        ];
        assert!(load(None, &[], &encrypted).is_ok());
    }
}

#[test]
fn origins_are_as_browsers_write_them() {
    let of = |origins: &str| load(None, &[], &["--grpc-web-origins", origins]);
    let config = of("https://app.example, http://localhost:8080").unwrap();
    assert_eq!(config.rpc.web_origins.len(), 2);
    assert!(config.rpc.of_admin().web_origins.is_empty());
    for bad in [
        "*",
        "https://*.example",
        "app.example",
        "https://app.example/",
        "https://app.example/x",
        "https://me@app.example",
        "ftp://app.example",
        "null",
    ] {
        let message = of(bad).unwrap_err().to_string();
        assert!(message.contains("grpc_web_origins:"), "{message}");
    }
}

#[test]
fn variables_that_name_no_key_are_ignored() {
    let variables = [
        ("FRAMESHIFT_SERVICE_HOST", "10.0.0.1"),
        ("FRAMESHIFT_PORT", "x"),
    ];
    assert!(load(None, &variables, &[]).is_ok());
}

/// The dump of a configuration with two values of its own; what the machine decides is a question mark.
const DUMP: &str = r#"listen = "127.0.0.1:50051" # default
# address_file is not set
insecure_allow_anonymous = false # default
authentication = "none" # default
# admin_listen is not set
# bootstrap_key_file is not set
# key_pepper_file is not set
# identities_file is not set
issuer_stale_limit = "1h" # default
refused_credentials_per_address = 20 # default
# trusted_proxies is not set
# plaintext is not set
reflection = "on" # default
# grpc_web_origins is not set
# tls_certificate is not set
# tls_key is not set
# tls_client_ca is not set
# tls_client_crl is not set
tls_client_certificates = "required" # default
role = "all" # default
# exit_when_idle is not set
data_dir = "frameshift-data" # default
# database_url is not set
# database_listen_url is not set
# database_password_file is not set
database_connections = 10 # default
database_timeout = "3s" # default
database_statement_timeout = "30s" # default
database_start_timeout = "5m" # default
database_migrate = true # default
database_hints = true # default
# objects_url is not set
# objects_endpoint is not set
# objects_credentials_file is not set
# cache_dir is not set
cache_bytes = "20GiB" # default
accept_data_loss = false # default
backbone = "builtin" # default
# backbone_override is not set
# backbone_digest is not set
# metrics_listen is not set
# otlp_endpoint is not set
trace_ratio = 1 # default
log_format = "text" # default
log = "info" # default
precision = "auto" # default
device = "auto" # default
# compute_threads = ? # derived from the machine
upload_limit = "1GiB" # default
upload_expiry = "1day" # default
uploads_per_tenant = 256 # default
upload_bytes_per_tenant = "64GiB" # default
# examples_per_tenant is not set
# requests_per_tenant is not set
# clips_per_tenant is not set
queue_clips = 30 # flag --queue-clips
# queue_memory = ? # derived from the machine
batch_clips = 4 # environment variable FRAMESHIFT_BATCH_CLIPS
# batch_memory = ? # derived from the machine
batch_time = "100ms" # default
adapter_memory = "1GiB" # default
# host_adapter_memory = ? # derived from the machine
stale_limit = "15m" # default
training_share = "0.1" # default
job_runners = 2 # default
# step_memory = ? # derived from the machine
feature_bytes = "8GiB" # default
decoded_bytes = "0B" # default
jobs_per_tenant = 16 # default
watchers_per_tenant = 256 # default
job_lease = "30s" # default
job_retention = "90days" # default
event_retention = "30days" # default
collect_after = "6h" # default
collect_share = 20 # default
# video_workers = ? # derived from the machine
video_wall_time = "30s" # default
video_cpu_time = "20s" # default
video_memory = "1GiB" # default
video_pixels = 9437184 # default
video_packets = 400000 # default
video_frames = 216000 # default
video_streams = 16 # default
video_duration = "3h" # default
video_sandbox = "on" # default
connection_age = "1h" # default
keepalive_interval = "30s" # default
keepalive_timeout = "20s" # default
connections = 512 # default
# message_memory = ? # derived from the machine
# upload_memory = ? # derived from the machine
spool_bytes = "4GiB" # default
streams_per_tenant = 64 # default
live_streams_per_tenant = 32 # default
live_memory = "512MiB" # default
stream_idle = "30s" # default
call_deadline = "2m" # default
drain_grace = "5s" # default
drain_timeout = "30s" # default
"#;

#[test]
fn the_dump_is_the_configuration_in_force_and_loads_again() {
    let layers = Layered::load(
        None,
        &environment(&[("FRAMESHIFT_BATCH_CLIPS", "4")]),
        &flags(&["--queue-clips", "30"]),
    )
    .unwrap();
    let derived = Config::new(&layers, PathBuf::from("frameshift")).unwrap();
    let derived = derived.derived();
    let values = derived.iter().fold(DUMP.to_owned(), |text, (key, value)| {
        text.replace(&format!("{key} = ?"), &format!("{key} = {value}"))
    });
    assert!(!values.contains("= ?"), "{values}");
    let dump = layers.dump(&derived);
    assert_eq!(dump, values);
    let again = load(Some(&dump), &[], &[]).unwrap();
    assert_eq!(
        (again.engine.queue_clips, again.engine.batch_clips),
        (30, 4)
    );
}

#[test]
fn traces_go_to_a_collector_in_plain_text_and_training_leaves_serving_a_tenth() {
    let given = [
        "--otlp-endpoint=http://localhost:4317",
        "--trace-ratio=0.25",
        "--training-share=0.3",
    ];
    let config = load(None, &[], &given).unwrap();
    let traces = config.traces.expect("an endpoint");
    assert_eq!(traces.endpoint, "http://localhost:4317");
    assert!((traces.ratio - 0.25).abs() < 1e-9);
    assert_eq!(config.device.training_share, 300);
    for file in [
        "training_share = 0.95",
        "training_share = 2",
        "trace_ratio = -1",
    ] {
        let key = file.split(' ').next().unwrap();
        let error = load(Some(file), &[], &[]).unwrap_err().to_string();
        assert!(error.starts_with(&format!("{key}: ")), "{error}");
    }
    for wrong in [
        "https://localhost:4317",
        "localhost:4317",
        "http://localhost:4317/v1/traces",
        "http://",
    ] {
        let given = [&*format!("--otlp-endpoint={wrong}")];
        let error = load(None, &[], &given).unwrap_err().to_string();
        assert!(
            error.starts_with("otlp_endpoint: expected http://"),
            "{error}"
        );
    }
}

#[test]
fn the_defaults_are_those_of_the_components() {
    let config = load(None, &[], &[]).unwrap();
    let jobs = jobs::Config {
        step_bytes: machine::memory().unwrap_or(4 << 30) / 4 / 2,
        ..jobs::Config::default()
    };
    assert_eq!(config.jobs, jobs);
    assert_eq!(config.device, device::Config::default());
    let engine = engine::Config::default();
    assert_eq!(config.engine.queue_clips, engine.queue_clips);
    assert_eq!(config.engine.batch_clips, engine.batch_clips);
    assert_eq!(config.engine.residency_bytes, engine.residency_bytes);
    let video = video::Config::new(PathBuf::from("frameshift"));
    assert_eq!(config.video.limits, video.limits);
    assert_eq!(config.video.workers, video.workers);
    let upload = crate::library::Config::default().upload_bytes;
    assert_eq!(config.upload_limit, upload);
}
