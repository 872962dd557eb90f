//! `frameshift bench serve` and `bench gates`: the program itself, on a server that is there and on its own.

use std::process::{Output, Stdio};
use std::time::Duration;

use frameshift::proto::v1;
use serde_json::Value;
use tokio::process::Command;

use crate::processes::output_within;
use crate::server::{TestServer, backbone};

/// How long a run may take that starts servers and measures for seconds, beside other tests.
const LIMIT: Duration = Duration::from_secs(300);

async fn bench(words: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_frameshift"));
    command.arg("bench").args(words).arg("--json");
    output_within(LIMIT, command.stdin(Stdio::null())).await
}

async fn figures(words: &[&str]) -> Value {
    let output = bench(words).await;
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    serde_json::from_slice(&output.stdout).expect("one line of JSON")
}

fn count(figures: &Value, name: &str) -> u64 {
    figures[name].as_u64().expect("a count")
}

/// Every request that was sent is answered or an error with a code, for each tenant and for all.
fn adds_up(report: &Value) {
    let tenants = report["tenants"].as_array().expect("tenants");
    for figures in tenants.iter().chain([&report["all"]]) {
        let answered = count(figures, "answered");
        assert_eq!(count(figures, "sent"), answered + count(figures, "errors"));
        let codes = figures["errors_by_code"].as_object().expect("codes");
        let coded: u64 = codes.values().filter_map(Value::as_u64).sum();
        assert_eq!(count(figures, "errors"), coded);
    }
    for name in ["sent", "answered", "errors"] {
        let sum: u64 = tenants.iter().map(|figures| count(figures, name)).sum();
        assert_eq!(count(&report["all"], name), sum, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[allow(clippy::too_many_lines)]
async fn closed_and_open_loops_on_a_running_server_count_every_request_and_leave_nothing_behind() {
    let server = TestServer::start().await;
    let address = server.address.to_string();
    let on = [
        "serve",
        "--server",
        &address,
        "--seconds",
        "1",
        "--warmup",
        "0.2",
        "--width",
        "4",
    ];

    let closed = ["--callers", "3", "--tasks", "3", "--popularity", "zipf:1"];
    let report = figures(&[&on[..], &closed].concat()).await;
    adds_up(&report);
    assert_eq!(count(&report["all"], "errors"), 0, "{report}");
    assert!(count(&report["all"], "answered") > 0);
    assert!(report["all"]["clips_per_s"].as_f64() > Some(0.0));
    let latency = &report["all"]["latency_ms"];
    assert!(
        latency["p50"].as_f64() > Some(0.0) && latency["max"].as_f64() >= latency["p99"].as_f64()
    );
    assert!(report["all"]["server_ms"]["device"]["p50"].as_f64() > Some(0.0));

    let open = [
        "--rate",
        "8",
        "--arrivals",
        "constant",
        "--tenants",
        "2",
        "--flood",
        "3",
        "--clips",
        "inline",
    ];
    let report = figures(&[&on[..], &open].concat()).await;
    adds_up(&report);
    let sent = |tenant: usize| count(&report["tenants"][tenant], "sent");
    // Sent by the schedule of a second, whatever the server did; at its ends rounding decides.
    assert!(
        (23..=25).contains(&sent(0)) && (7..=9).contains(&sent(1)),
        "{report}"
    );

    let live = [
        "--live",
        "2",
        "--fps",
        "20",
        "--stride",
        "0.1",
        "--tenants",
        "2",
    ];
    let report = figures(&[&on[..], &live].concat()).await;
    adds_up(&report);
    // Each of four streams has a window each 100 ms, from 350 ms on, in the time from 200 to 1200 ms.
    let (due, found) = (count(&report["live"], "due"), &report["live"]);
    assert!((33..=35).contains(&due), "{report}");
    assert_eq!(
        (count(found, "streams"), due),
        (4, count(&report["all"], "sent"))
    );
    assert!(
        count(found, "in_time") <= due && count(&report["all"], "answered") > 0,
        "{report}"
    );

    let report = figures(&[&on[..], &["--windows", "2"]].concat()).await;
    adds_up(&report);
    assert_eq!(count(&report["all"], "errors"), 0, "{report}");
    assert!(count(&report["all"], "answered") > 0, "{report}");

    for tenant in ["bench-0", "bench-1", "bench-beside"] {
        let client = server.client(tenant).await;
        let tasks = client
            .tasks()
            .list_tasks(v1::ListTasksRequest::default())
            .await;
        assert_eq!(tasks.unwrap().into_inner().tasks, Vec::new());
        let videos = client
            .videos()
            .list_videos(v1::ListVideosRequest::default())
            .await;
        assert_eq!(videos.unwrap().into_inner().videos, Vec::new());
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_the_server_refuses_are_errors_with_their_reason() {
    let server = TestServer::start_with(|config| config.engine.queue_clips = 1).await;
    let address = server.address.to_string();
    let report = figures(&[
        "serve",
        "--server",
        &address,
        "--seconds",
        "1",
        "--warmup",
        "0.2",
        "--width",
        "4",
        "--callers",
        "12",
    ])
    .await;
    adds_up(&report);
    let codes = report["all"]["errors_by_code"].as_object().expect("codes");
    let names: Vec<&String> = codes.keys().collect();
    assert_eq!(names, ["ResourceExhausted/QUEUE_FULL"]);
    assert!(report["all"]["refusal_ms"]["p99"].as_f64() > Some(0.0));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_of_its_own_is_put_under_load_with_training_and_swaps_beside() {
    let report = figures(&[
        "serve",
        "--seconds",
        "1.5",
        "--warmup",
        "0.2",
        "--width",
        "8",
        "--callers",
        "2",
        "--tasks",
        "4",
        "--working-set",
        "2",
        "--training",
        "--swaps",
        "10",
        "--any-cpu",
    ])
    .await;
    adds_up(&report);
    assert!(count(&report["all"], "answered") > 0, "{report}");
    assert!(count(&report, "swaps") > 0, "{report}");
    assert_eq!(report["backbone"], "builtin");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_the_largest_requests_stays_within_the_budgets_that_the_server_prints() {
    let words = [
        "gates",
        "--only",
        "flood_memory",
        "--seconds",
        "6",
        "--require",
    ];
    let output = bench(&words).await;
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    let report: Value = serde_json::from_slice(&output.stdout).expect("one line of JSON");
    let gate = &report["gates"][0];
    assert_eq!(gate["problem"], Value::Null, "{gate}");
    let pair = &gate["pairs"][0];
    assert_eq!(pair["errors"].as_u64(), Some(0), "{gate}");
    // Large messages and clips were in flight: the flood is one.
    assert!(pair["a"].as_f64() > Some(200e6), "{gate}");
}

#[tokio::test(flavor = "multi_thread")]
async fn gates_print_each_ratio_beside_its_goal_and_fail_when_that_is_required() {
    let words = [
        "gates",
        "--only",
        "two_tenants,swap_14_mb",
        "--seconds",
        "6",
        "--warmup",
        "0.1",
        "--pairs",
        "1",
    ];
    let output = bench(&[&words[..], &["--require"]].concat()).await;
    let report: Value = serde_json::from_slice(&output.stdout).expect("one line of JSON");
    let gates = report["gates"].as_array().expect("gates");
    let names: Vec<&Value> = gates.iter().map(|gate| &gate["name"]).collect();
    assert_eq!(names, ["two_tenants", "swap_14_mb"]);
    for gate in gates {
        assert_eq!(gate["problem"], Value::Null, "{gate}");
        let (ratio, goal) = (
            gate["ratio"].as_f64().unwrap(),
            gate["goal"].as_f64().unwrap(),
        );
        let good = match gate["bound"].as_str() {
            Some("at_least") => ratio >= goal,
            _ => ratio <= goal,
        };
        assert_eq!(gate["met"].as_bool(), Some(good), "{gate}");
    }
    let missed = gates.iter().any(|gate| gate["met"] == false);
    assert_eq!(output.status.code(), Some(i32::from(missed)));
}

#[tokio::test(flavor = "multi_thread")]
async fn gates_share_a_time_and_go_on_with_those_that_a_file_has() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("gates.json");
    let out = out.to_str().unwrap();
    let full_size = backbone();
    let words = [
        "gates",
        "--seconds",
        "3",
        "--warmup",
        "0.1",
        "--pairs",
        "1",
        "--out",
        out,
        "--full-size",
        full_size.to_str().unwrap(),
    ];
    let gates = |report: &Value| -> Vec<(String, bool)> {
        let gates = report["gates"].as_array().expect("gates").iter();
        let gates = gates.map(|gate| {
            let name = gate["name"].as_str().expect("a name").to_owned();
            (name, gate["problem"].is_null())
        });
        gates.collect()
    };
    let owned = |names: &[&str], measured| -> Vec<(String, bool)> {
        names
            .iter()
            .map(|name| ((*name).to_owned(), measured))
            .collect()
    };
    // No time at all: nothing is measured, and each gate says so.
    let three = "many_tasks_half,swap_14_mb,set_over_bare";
    let none = [&words[..], &["--only", three, "--budget", "0s"]].concat();
    let names = ["many_tasks_half", "swap_14_mb", "set_over_bare"];
    assert_eq!(gates(&figures(&none).await), owned(&names, false));
    // What was measured is kept while the others are.
    let first = ["--only", "swap_14_mb"];
    let report = figures(&[&words[..], &first].concat()).await;
    let measured = &report["gates"].as_array().unwrap().last().unwrap()["pairs"][0];
    let pair = |name: &str| measured[name].as_f64().unwrap();
    assert!(pair("a") > 0.0 && pair("b") > 0.0, "{report}");
    assert_eq!(measured["errors"], 0);
    let rest = [&words[..], &["--only", three]].concat();
    let report = figures(&rest).await;
    let mut all = gates(&report);
    // On a busy machine no answer may come within the seconds of one of these.
    let (_, half) = all.remove(1);
    let is_short = report["gates"][1]["problem"]
        .to_string()
        .contains("--seconds");
    assert!(half || is_short, "{report}");
    assert_eq!(
        all,
        owned(&["swap_14_mb", "set_over_bare"], true),
        "{report}"
    );
    assert_eq!(
        report["gates"][0]["pairs"][0], *measured,
        "not measured again"
    );
    let stored: Value = serde_json::from_slice(&std::fs::read(out).unwrap()).unwrap();
    assert_eq!(stored, report);
    // Figures of another length do not mix with these.
    let other = [&["gates", "--seconds", "4", "--out", out][..]].concat();
    assert_eq!(bench(&other).await.status.code(), Some(64));
}
