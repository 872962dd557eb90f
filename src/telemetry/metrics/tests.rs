//! What the exposition shows.

use std::time::Duration;

use prost::Message;
use prost_types::FileDescriptorSet;

use super::*;
use crate::ids::{AdapterVersion, VersionRef};
use crate::spec::JobState;

fn tenant(name: &str) -> TenantId {
    name.parse().unwrap()
}

#[test]
fn requests_are_counted_by_method_code_and_tenant() {
    let metrics = Metrics::new();
    let caller = Caller::Tenant(tenant("a"));
    let without = [
        &Caller::Malformed,
        &Caller::Unproven,
        &Caller::Operator,
        &Caller::Nobody,
    ];
    for caller in [&caller, &caller].into_iter().chain(without) {
        metrics.request(caller, "Classify", "OK", Duration::from_millis(3), None);
    }
    let text = metrics.text();
    let line = "frameshift_requests_total{method=\"Classify\",code=\"OK\",tenant=\"a\"} 2\n";
    assert!(text.contains(line), "{text}");
    for label in ["_malformed", "_unproven", "_operator", "_none"] {
        let line = format!("{{method=\"Classify\",code=\"OK\",tenant=\"{label}\"}} 1\n");
        assert!(text.contains(&line), "{text}");
    }
    assert!(text.contains("frameshift_request_seconds_count{method=\"Classify\"} 6\n"));
    assert!(text.ends_with("# EOF\n"));
}

#[test]
fn a_latency_names_the_trace_of_a_request_that_had_it() {
    let metrics = Metrics::new();
    let caller = Caller::Tenant(tenant("a"));
    let trace = Some("0af7651916cd43dd8448eb211c80319c".to_owned());
    metrics.request(&caller, "Classify", "OK", Duration::from_millis(3), trace);
    let text = metrics.text();
    let mut lines = text.lines().filter(|line| line.contains(" # "));
    let line = lines.next().expect("a bucket has an exemplar");
    let bucket = "frameshift_request_seconds_bucket{le=\"0.004\",method=\"Classify\"} 1 # ";
    assert!(line.starts_with(bucket), "{line}");
    let exemplar = "{trace_id=\"0af7651916cd43dd8448eb211c80319c\"} 0.003 ";
    assert!(line.contains(exemplar), "{line}");
    assert_eq!(lines.next(), None, "the other buckets have none");
}

#[test]
fn tenants_beyond_the_limit_share_a_label() {
    let metrics = Metrics::new();
    for i in 0..TENANT_LABELS + 5 {
        metrics.job_step(&tenant(&format!("t{i}")), 4);
    }
    let text = metrics.text();
    assert!(text.contains("frameshift_job_steps_total{tenant=\"other\"} 5\n"));
    assert!(text.contains("frameshift_job_clips_total{tenant=\"t0\"} 4\n"));
}

#[test]
fn ten_thousand_tenants_have_at_most_five_thousand_series() {
    let metrics = Metrics::new();
    let methods = methods();
    let codes = ["OK", "INVALID_ARGUMENT", "NOT_FOUND", "RESOURCE_EXHAUSTED"];
    let reasons = [Dropped::QueueFull, Dropped::Expired, Dropped::Cancelled];
    let took = std::time::Duration::from_millis(1);
    for number in 0..10_000 {
        let tenant = tenant(&format!("t{number}"));
        let caller = Caller::Tenant(tenant.clone());
        // Some call everything; that would only take long for all.
        let count = if number < 200 { methods.len() } else { 3 };
        for method in methods.iter().copied().take(count) {
            for code in codes {
                metrics.request(&caller, method, code, took, None);
            }
        }
        for reason in reasons {
            metrics.dropped(&tenant, reason);
        }
        for task in ["a", "b"] {
            let version = VersionRef {
                tenant: tenant.clone(),
                task: task.parse().unwrap(),
                version: AdapterVersion::new(1).unwrap(),
            };
            metrics.classified(&version, took);
            metrics.classification_failed(&version);
            metrics.shadowed(&version, "agreed");
        }
        metrics.residency_bytes(&tenant, 1);
        metrics.adapter_loaded(&tenant, took);
        metrics.adapter_load_failed(&tenant, "missing");
        metrics.uploaded(&tenant, 1);
        metrics.job_step(&tenant, 4);
        for state in [JobState::Succeeded, JobState::Failed, JobState::Cancelled] {
            metrics.job_finished(&tenant, state);
        }
    }
    let text = metrics.text();
    let series = text.lines().filter(|line| !line.starts_with('#')).count();
    println!("10000 tenants have {series} series (goal 5000)");
    assert!(series <= 5000, "{series} series");
    assert!(text.contains("tenant=\"other\""));
}

/// Methods of the API, and their services.
fn methods() -> Vec<&'static str> {
    let all = FileDescriptorSet::decode(crate::proto::DESCRIPTORS).unwrap();
    let services = all.file.iter().flat_map(|file| &file.service);
    let names = services.flat_map(|service| {
        let methods = service.method.iter();
        methods.map(|method| format!("/{}/{}", service.name(), method.name()))
    });
    names.map(|name| &*name.leak()).collect()
}

#[test]
fn versions_beyond_the_limit_share_their_labels() {
    let metrics = Metrics::new();
    for number in 1..=VERSION_LABELS as u32 + 5 {
        metrics.classified(
            &VersionRef {
                tenant: tenant("a"),
                task: "t".parse().unwrap(),
                version: AdapterVersion::new(number).unwrap(),
            },
            std::time::Duration::ZERO,
        );
    }
    let text = metrics.text();
    for line in [
        "frameshift_classifications_total{tenant=\"a\",task=\"t\",version=\"7\"} 1\n",
        "frameshift_classifications_total{tenant=\"other\",task=\"other\",version=\"other\"} 5\n",
    ] {
        assert!(text.contains(line), "{line}");
    }
}

#[test]
fn a_job_is_in_one_state_at_a_time() {
    let metrics = Metrics::new();
    metrics.job_moved(None, Some(JobState::Validating));
    metrics.job_moved(Some(JobState::Validating), Some(JobState::Running));
    let text = metrics.text();
    assert!(text.contains("frameshift_jobs{state=\"validating\"} 0\n"));
    assert!(text.contains("frameshift_jobs{state=\"running\"} 1\n"));
}

#[test]
fn every_kind_of_metric_is_shown() {
    let metrics = Metrics::new();
    metrics.dropped(&tenant("a"), Dropped::Expired);
    metrics.queue_clips(3);
    metrics.admission_capacity(256);
    metrics.admission_used(12);
    metrics.queued(Duration::from_millis(5));
    metrics.batch(16, 3);
    metrics.frames_resumed(7);
    metrics.slice(DeviceKind::Serving, Duration::from_millis(250));
    metrics.residency_bytes(&tenant("a"), 1000);
    metrics.adapter_loaded(&tenant("a"), Duration::from_millis(1));
    metrics.adapter_load_failed(&tenant("a"), "digest");
    metrics.adapter_evicted();
    metrics.serving_move("moved");
    metrics.uploaded(&tenant("a"), 77);
    metrics.build_info("0.1.0", "89f5", "cpu", "f32");
    let text = metrics.text();
    for line in [
        "frameshift_requests_dropped_total{reason=\"expired\",tenant=\"a\"} 1\n",
        "frameshift_queue_clips 3\n",
        "frameshift_admission_capacity_clips 256\n",
        "frameshift_admission_used_clips 12\n",
        "frameshift_queue_seconds_count 1\n",
        "frameshift_batch_clips_sum 16.0\n",
        "frameshift_frames_resumed_total 7\n",
        "frameshift_device_seconds_total{kind=\"serving\"} 0.25\n",
        "frameshift_device_slices_total{kind=\"serving\"} 1\n",
        "frameshift_residency_bytes{tenant=\"a\"} 1000\n",
        "frameshift_adapter_load_failures_total{reason=\"digest\",tenant=\"a\"} 1\n",
        "frameshift_adapter_evictions_total 1\n",
        "frameshift_serving_moves_total{outcome=\"moved\"} 1\n",
        "frameshift_upload_bytes_total{tenant=\"a\"} 77\n",
        "frameshift_build_info{version=\"0.1.0\",backbone=\"89f5\",device=\"cpu\",precision=\"f32\"} 1\n",
    ] {
        assert!(text.contains(line), "{line} not in {text}");
    }
}

/// Names of metrics in a text, without the endings that the format adds.
fn names(text: &str) -> std::collections::BTreeSet<String> {
    let is_part =
        |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '_';
    text.split(|letter| !is_part(letter))
        .filter(|word| word.starts_with("frameshift_"))
        .map(|word| {
            let endings = ["_total", "_bucket", "_sum", "_count"];
            let bare = endings.iter().find_map(|end| word.strip_suffix(end));
            bare.unwrap_or(word).to_owned()
        })
        .collect()
}

#[test]
fn the_chart_asks_for_metrics_that_there_are() {
    // The text of a server shows a metric with labels only once it has a value, so the places are read where metrics get their names.
    let sources = [
        include_str!("../metrics.rs"),
        include_str!("groups.rs"),
        include_str!("live.rs"),
        include_str!("objects.rs"),
    ]
    .concat();
    let files = [
        include_str!("../../../deploy/chart/files/alerts.yaml"),
        include_str!("../../../deploy/chart/files/dashboard.json"),
        include_str!("../../../deploy/chart/templates/autoscaling.yaml"),
        include_str!("../../../deploy/chart/templates/trainer.yaml"),
    ];
    // What a rule for the adapter of custom metrics makes of two of ours.
    let made = [
        "frameshift_admission_used_share",
        "frameshift_queue_seconds_p95",
    ];
    let asked: std::collections::BTreeSet<String> =
        files.iter().flat_map(|file| names(file)).collect();
    assert!(asked.len() > 20, "{asked:?}");
    for name in asked.iter().filter(|name| !made.contains(&name.as_str())) {
        let registered = name.strip_prefix("frameshift_").unwrap_or(name);
        let quoted = format!("\"{registered}\"");
        assert!(sources.contains(&quoted), "{name} is no metric");
    }
}
