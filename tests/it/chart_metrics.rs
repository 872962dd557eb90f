//! What the chart's alerts, dashboard and autoscaling ask for, against the metrics of a server that has trained and answered.

use std::collections::{BTreeMap, BTreeSet};

use crate::server::{TestServer, classify, trained, until};

/// Metrics, each with the names of labels.
type Labels = BTreeMap<String, BTreeSet<String>>;

/// The files of the chart with queries.
const FILES: [&str; 4] = [
    include_str!("../../deploy/chart/files/alerts.yaml"),
    include_str!("../../deploy/chart/files/dashboard.json"),
    include_str!("../../deploy/chart/templates/autoscaling.yaml"),
    include_str!("../../deploy/chart/templates/trainer.yaml"),
];

/// What a rule for the adapter of custom metrics makes of others.
const MADE: [&str; 2] = [
    "frameshift_admission_used_share",
    "frameshift_queue_seconds_p95",
];

/// Metrics with labels of what this server has not seen: faults, refusals, a bucket, a live stream.
const UNSEEN: [&str; 6] = [
    "frameshift_adapter_load_failures_total",
    "frameshift_credentials_refused_total",
    "frameshift_live_windows_total",
    "frameshift_object_cache_requests_total",
    "frameshift_requests_dropped_total",
    "frameshift_tls_handshakes_failed_total",
];

/// Labels that Prometheus adds to what it reads of a pod.
const OF_PODS: [&str; 3] = ["namespace", "pod", "job"];

/// The metrics that a text names, with the labels between the braces after them.
fn named(text: &str) -> Labels {
    let is_part = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    let mut all = Labels::new();
    for (begin, _) in text.match_indices("frameshift_") {
        let text = &text[begin..];
        let name = &text[..text.find(|c| !is_part(c)).unwrap_or(text.len())];
        let labels = all.entry(name.to_owned()).or_default();
        let braced = text[name.len()..].strip_prefix('{');
        let Some((selectors, _)) = braced.and_then(|text| text.split_once('}')) else {
            continue;
        };
        for selector in selectors.split(',') {
            let label = selector.split(['=', '!']).next().unwrap_or_default();
            if !label.is_empty() && label.chars().all(is_part) && !OF_PODS.contains(&label) {
                labels.insert(label.to_owned());
            }
        }
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_has_every_metric_and_label_that_the_chart_asks_for() {
    let server = TestServer::start().await;
    let client = server.client("acme").await;
    let videos = trained(&client, "motion").await;
    let request = classify("motion", &videos[0].name);
    client.classification().classify(request).await.unwrap();
    let asked = named(&FILES.concat());
    assert!(asked.len() > 30, "{asked:?}");
    for name in UNSEEN.iter().chain(&MADE) {
        assert!(asked.contains_key(*name), "nobody asks for {name}");
    }
    let missing = || {
        let samples = server.wiring.metrics.text();
        let samples = samples.lines().filter(|line| !line.starts_with('#'));
        let shown = named(&samples.collect::<Vec<_>>().join("\n"));
        let mut missing = Vec::new();
        for (name, labels) in &asked {
            if UNSEEN.contains(&name.as_str()) || MADE.contains(&name.as_str()) {
                continue;
            }
            match shown.get(name) {
                Some(shown) if labels.is_subset(shown) => {}
                Some(shown) => missing.push(format!("{name}: {labels:?} of {shown:?}")),
                None => missing.push(name.clone()),
            }
        }
        missing
    };
    // Some are brought up to date every few seconds.
    let begun = tokio::time::Instant::now();
    let is_patient = || begun.elapsed() < std::time::Duration::from_secs(20);
    until(|| async { missing().is_empty() || !is_patient() }).await;
    assert_eq!(missing(), Vec::<String>::new());
    server.stop().await;
}
