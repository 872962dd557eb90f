//! What tenants used is what they were answered, whatever happens to the server.

use std::path::Path;

use frameshift::metadata::{PageRequest, UsageQuery, UsageRecord, UsageSpan};
use frameshift::proto::v1;
use frameshift::spec::{Scope, Scopes};

use super::Bed;
use crate::reports::command::{output, program};
use crate::server::{TestServer, classify, config, refused, soon, trained};
use crate::server_process::Process;

/// Frames of a clip of a test's task.
const FRAMES: u64 = 2;

async fn used(server: &TestServer) -> Vec<UsageRecord> {
    let ask = UsageQuery {
        tenant: None,
        begin: 0,
        end: i64::MAX,
        span: UsageSpan::Hour,
    };
    let records = &server.wiring.metadata;
    let page = records.list_usage(&ask, &PageRequest::first()).await;
    page.unwrap().items
}

fn clip_frames(used: &[UsageRecord], tenant: &str) -> u64 {
    let own = used.iter().filter(|used| {
        let id = used.tenant.as_ref();
        id.is_some_and(|id| id.as_str() == tenant)
    });
    own.map(|used| used.amounts.clip_frames).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn counts_survive_restarts_and_equal_what_was_answered() {
    let folder = tempfile::tempdir().unwrap();
    let server = TestServer::start_on(config(folder.path())).await;
    let client = server.client("acme").await;
    let videos = trained(&client, "motion").await;
    let trained_frames: u64 = {
        server.wiring.tenants.close_window().await.unwrap();
        let used = used(&server).await;
        used.iter().map(|used| used.trained_clip_frames).sum()
    };
    // Two epochs of four clips.
    assert_eq!(trained_frames, 2 * 4 * FRAMES);
    let (mut server, mut client) = (server, client);
    let mut answered = 0;
    for round in 0..3 {
        for video in &videos {
            let request = classify("motion", &video.name);
            client.classification().classify(request).await.unwrap();
            answered += FRAMES;
        }
        // What is not answered is not counted.
        let missing = classify("motion", "videos/018f0000-0000-7000-8000-000000000000");
        client.classification().classify(missing).await.unwrap_err();
        if round == 1 {
            server.wiring.tenants.close_window().await.unwrap();
        }
        server.stop().await;
        server = TestServer::start_on(config(folder.path())).await;
        client = server.client("acme").await;
        crate::server::serving(&client, "motion").await;
    }
    let used = used(&server).await;
    assert_eq!(clip_frames(&used, "acme"), answered);
    assert_eq!(clip_frames(&used, "globex"), 0);
    let of_task = |used: &&UsageRecord| {
        used.task
            .as_ref()
            .is_some_and(|task| task.as_str() == "motion")
    };
    assert_eq!(
        used.iter()
            .filter(of_task)
            .map(|used| used.amounts.clip_frames)
            .sum::<u64>(),
        answered
    );
    let calls: u64 = used.iter().map(|used| used.amounts.requests).sum();
    assert!(calls > answered / FRAMES, "{calls} calls");
    server.stop().await;
}

/// Clip-frames on record in a data directory whose server has ended.
async fn on_record(folder: &Path) -> u64 {
    let server = TestServer::start_on(config(&folder.join("data"))).await;
    let frames = clip_frames(&used(&server).await, "acme");
    server.stop().await;
    frames
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_server_loses_at_most_what_it_had_not_brought() {
    let folder = tempfile::tempdir().unwrap();
    let setup = Process::start(folder.path(), &[]);
    let client = setup.client().await;
    let videos = trained(&client, "motion").await;
    assert_eq!(setup.terminate().await.code(), Some(0));
    let mut before = 0;
    let (answered, recorded) = loop {
        // It ends itself when its first counts are committed, before it knows that.
        let mut process = Process::start(folder.path(), &["--crash-at", "usage-flushed"]);
        let client = process.client().await;
        crate::server::serving(&client, "motion").await;
        let mut answered = 0;
        let flood = async {
            let ask = || classify("motion", &videos[0].name);
            while client.classification().classify(ask()).await.is_ok() {
                answered += FRAMES;
            }
        };
        soon(flood).await;
        process.ended().await;
        let on_record = on_record(folder.path()).await;
        let recorded = on_record - before;
        before = on_record;
        // One that begins slowly may have its first counts taken when hardly anything was asked.
        if answered >= 20 * FRAMES {
            break (answered, recorded);
        }
    };
    assert!(
        recorded > 0 && recorded <= answered + FRAMES,
        "{recorded} of {answered}"
    );
    // What came after the counts were taken is all that is lost: the kill followed at once.
    let lost = answered.saturating_sub(recorded);
    assert!(lost <= answered / 2, "{lost} of {answered} are lost");
    assert_eq!(
        on_record(folder.path()).await,
        before,
        "nothing is counted again"
    );
}

/// The command writes what was used as CSV and as JSON lines.
async fn exported(bed: &Bed) {
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("operator");
    let operator = bed.guarded.key(Scopes::of(&[Scope::FleetAdmin])).await;
    std::fs::write(&key, operator).unwrap();
    let export = async |extra: &[&str]| {
        let mut command = program();
        command
            .env("FRAMESHIFT_SERVER", bed.guarded.server.address.to_string())
            .env("FRAMESHIFT_ADMIN_SERVER", bed.guarded.admin.to_string())
            .env("FRAMESHIFT_API_KEY_FILE", &key)
            .args(["usage", "export"])
            .args(extra);
        output(&mut command).await.ends(0)
    };
    let csv = export(&["acme"]).await.out;
    let mut lines = csv.lines();
    let head = "start,end,tenant,task,requests,clip_frames,trained_clip_frames,byte_hours,\
                device_seconds,decode_seconds,received_bytes,sent_bytes";
    assert_eq!(lines.next(), Some(head));
    assert!(lines.clone().all(|line| line.contains(",acme,")), "{csv}");
    assert!(
        lines.any(|line| line.contains(",acme,motion,0,2,16,")),
        "{csv}"
    );
    let lines = export(&[
        "--format",
        "jsonl",
        "--by",
        "hour",
        "--from",
        "2020-01-01T00:00:00Z",
    ])
    .await;
    let frames = lines
        .json()
        .iter()
        .map(|line| line["clip_frames"].as_i64().unwrap())
        .sum::<i64>();
    assert_eq!(frames, FRAMES as i64);
    // The device's time is the task's; decoding and bytes are of calls, which belong to no task.
    let sum = |name: &str, task: &str| {
        let of_task = lines.json().into_iter().filter(|line| line["task"] == task);
        of_task
            .map(|line| line[name].as_f64().unwrap())
            .sum::<f64>()
    };
    for (name, task) in [
        ("device_seconds", "motion"),
        ("decode_seconds", ""),
        ("received_bytes", ""),
        ("sent_bytes", ""),
    ] {
        assert!(sum(name, task) > 0.0, "{name}");
    }
    let none = export(&["--to", "2020-01-01T00:00:00Z"]).await.out;
    assert_eq!(none.lines().count(), 1, "{none}");
}

#[tokio::test(flavor = "multi_thread")]
async fn usage_is_listed_to_operators_and_to_a_tenants_own_administrators() {
    let bed = Bed::start().await;
    let videos = trained(&bed.acme, "motion").await;
    let request = classify("motion", &videos[0].name);
    bed.acme.classification().classify(request).await.unwrap();
    bed.guarded
        .server
        .wiring
        .tenants
        .close_window()
        .await
        .unwrap();
    let list = |tenant: &str| v1::ListUsageRequest {
        tenant: tenant.into(),
        span: v1::UsageSpan::Day.into(),
        ..Default::default()
    };
    let all = bed
        .operator
        .admin()
        .list_usage(list(""))
        .await
        .unwrap()
        .into_inner();
    let frames: i64 = all.records.iter().map(|record| record.clip_frames).sum();
    assert_eq!(frames, FRAMES as i64);
    let own = bed.guarded.key(Scopes::of(&[Scope::TenantAdmin])).await;
    let own = bed.guarded.admin(&own).await;
    let listed = own.admin().list_usage(list("")).await.unwrap().into_inner();
    assert!(
        listed
            .records
            .iter()
            .all(|record| record.tenant == "tenants/acme")
    );
    assert!(!listed.records.is_empty());
    let other = own.admin().list_usage(list("tenants/globex")).await;
    refused(other, tonic::Code::PermissionDenied, "TENANT_DENIED");
    exported(&bed).await;
    bed.guarded.server.stop().await;
}
