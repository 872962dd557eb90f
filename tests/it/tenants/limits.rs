//! What a tenant may have at once on one server: calls, streams and clips, by its own limits or else by the server's settings.

use frameshift::client::Client;
use frameshift::proto::v1;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::Bed;
use crate::rpc_frames::{Live, by_frames, header};
use crate::rpc_uploads::{create, write_open};
use crate::server::{TestServer, clip, create_dataset, reason, refused, trained, until};

/// Clients that race.
const CLIENTS: usize = 16;

/// The quota, the limit, what is used and the setting that a refusal names, and whether it says when to try again.
fn told(status: &Status) -> (String, String, String, String, bool) {
    let details = status.get_error_details();
    let info = details.error_info().expect("a reason");
    let value = |key: &str| info.metadata.get(key).cloned().unwrap_or_default();
    assert!(details.quota_failure().is_some(), "{status:?}");
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    let retries = details.retry_info().is_some();
    (
        value("quota"),
        value("limit"),
        value("used"),
        value("setting"),
        retries,
    )
}

fn expect_told(
    status: &Status,
    quota: &str,
    [limit, used]: [i64; 2],
    setting: &str,
    retries: bool,
) {
    let expected = (
        quota.to_owned(),
        limit.to_string(),
        used.to_string(),
        setting.to_owned(),
        retries,
    );
    assert_eq!(told(status), expected, "{status:?}");
}

/// The calls that were answered while others wait, and those that wait.
type Raced = (Vec<Result<(), Status>>, JoinSet<Result<(), Status>>);

/// Has so many clients call at once. Waits until only `rest` of them have no answer; returns those answers, and the calls that are left.
async fn race<F>(mut call: impl FnMut() -> F, rest: usize) -> Raced
where
    F: Future<Output = Result<(), Status>> + Send + 'static,
{
    let mut calls = JoinSet::new();
    for _ in 0..CLIENTS {
        calls.spawn(call());
    }
    let mut answers = Vec::new();
    while calls.len() > rest {
        let answer = crate::server::soon(calls.join_next()).await;
        answers.push(answer.expect("one is left").expect("no panic"));
    }
    (answers, calls)
}

/// Expects that all of these were refused, and all that are left are served once they may go on.
async fn expect_refused((answers, rest): Raced, check: impl Fn(&Status)) {
    for answer in &answers {
        check(answer.as_ref().expect_err("only so many are let in"));
    }
    for answer in rest.join_all().await {
        answer.expect("it was let in");
    }
}

async fn classify(client: Client) -> Result<(), Status> {
    let mut request = crate::server::classify("motion", "");
    request.source = Some(v1::classify_request::Source::Content(clip(20)));
    client.classification().classify(request).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn sixteen_racing_calls_exceed_neither_the_limit_of_requests_nor_that_of_clips() {
    let bed = Bed::start().await;
    trained(&bed.acme, "motion").await;
    let device = bed.guarded.server.wiring.device.clone();
    for (quotas, quota, setting) in [
        (
            v1::Quotas {
                concurrent_requests: Some(3),
                ..Default::default()
            },
            "concurrent_requests",
            "requests_per_tenant",
        ),
        (
            v1::Quotas {
                admitted_clips: Some(3),
                ..Default::default()
            },
            "admitted_clips",
            "clips_per_tenant",
        ),
    ] {
        bed.set(quotas).await;
        let held = device.pause();
        let raced = race(|| classify(bed.acme.clone()), 3).await;
        drop(held);
        expect_refused(raced, |status| {
            assert_eq!(reason(status), "QUOTA_EXCEEDED");
            expect_told(status, quota, [3, 3], setting, true);
        })
        .await;
        // Places are free again when the answers have ended.
        until(|| async { classify(bed.acme.clone()).await.is_ok() }).await;
    }
    // What can never be let in is not to be tried again.
    bed.set(v1::Quotas {
        admitted_clips: Some(0),
        ..Default::default()
    })
    .await;
    let status = classify(bed.acme.clone()).await.unwrap_err();
    expect_told(&status, "admitted_clips", [0, 0], "clips_per_tenant", false);
    bed.set(v1::Quotas {
        concurrent_requests: Some(0),
        ..Default::default()
    })
    .await;
    let status = bed.list().await.unwrap_err();
    expect_told(
        &status,
        "concurrent_requests",
        [0, 0],
        "requests_per_tenant",
        false,
    );
    bed.set(v1::Quotas::default()).await;
    classify(bed.acme.clone()).await.unwrap();
    bed.guarded.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sixteen_racing_streams_exceed_no_limit_of_streams() {
    let bed = Bed::start().await;
    trained(&bed.acme, "motion").await;
    bed.set(v1::Quotas {
        concurrent_streams: Some(2),
        concurrent_live_streams: Some(1),
        ..Default::default()
    })
    .await;
    let mut open = Vec::new();
    let raced = race(
        || {
            let client = bed.acme.clone();
            // A stream goes on until this test ends it.
            let (feed, messages) = mpsc::channel(1);
            open.push(feed);
            async move {
                let messages = ReceiverStream::new(messages);
                match client.videos().upload_video(messages).await {
                    Ok(_) => Ok(()),
                    // It was let in, and had nothing to say.
                    Err(status) if reason(&status) == "INVALID_STREAM" => Ok(()),
                    Err(status) => Err(status),
                }
            }
        },
        2,
    )
    .await;
    drop(open);
    expect_refused(raced, |status| {
        assert_eq!(reason(status), "TOO_MANY_STREAMS");
        expect_told(
            status,
            "concurrent_streams",
            [2, 2],
            "streams_per_tenant",
            true,
        );
    })
    .await;
    let header = || header("motion", by_frames(1, 1));
    let first = Live::open(&bed.acme, header()).await.unwrap();
    let second = Live::open(&bed.acme, header()).await;
    let status = second.err().expect("one is open");
    let setting = "live_streams_per_tenant";
    expect_told(&status, "concurrent_live_streams", [1, 1], setting, true);
    drop(first);
    until(|| async { Live::open(&bed.acme, header()).await.is_ok() }).await;
    bed.guarded.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_beyond_the_limit_of_open_bytes_is_refused_before_it_is_stored() {
    let bed = Bed::start().await;
    let size = clip(20).len() as i64;
    let limit = size + size / 2;
    bed.set(v1::Quotas {
        open_upload_bytes: Some(limit),
        ..Default::default()
    })
    .await;
    let (first, second) = (create(&bed.acme).await, create(&bed.acme).await);
    write_open(&bed.acme, &first, &clip(20)).await.unwrap();
    let status = write_open(&bed.acme, &second, &clip(20)).await.unwrap_err();
    assert_eq!(reason(&status), "TOO_MANY_UPLOAD_BYTES");
    let setting = "upload_bytes_per_tenant";
    expect_told(&status, "open_upload_bytes", [limit, size], setting, false);
    let usage = bed.shown().await.usage.unwrap();
    assert_eq!(usage.open_upload_bytes, size);
    // What is given up makes room.
    let delete = v1::DeleteUploadRequest { name: first };
    bed.acme.videos().delete_upload(delete).await.unwrap();
    write_open(&bed.acme, &second, &clip(20)).await.unwrap();
    bed.guarded.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_servers_settings_limit_tenants_without_limits_of_their_own() {
    let server = TestServer::start_with(|config| {
        config.tenancy.at_once.clips = Some(0);
        config.library.examples = Some(1);
    })
    .await;
    let client = server.client("acme").await;
    let create = v1::CreateDatasetRequest {
        dataset_id: "motion".into(),
        ..Default::default()
    };
    client.datasets().create_dataset(create).await.unwrap();
    let mut examples = Vec::new();
    for shade in [10, 200] {
        let video = crate::server::upload(&client, &clip(shade)).await.unwrap();
        examples.push(v1::Example {
            video: video.name,
            label: "left".into(),
            split: v1::Split::Train.into(),
            ..Default::default()
        });
    }
    let add = async |examples: &[v1::Example]| {
        let request = v1::AddExamplesRequest {
            name: "datasets/motion".into(),
            examples: examples.to_vec(),
        };
        client.datasets().add_examples(request).await
    };
    let status = add(&examples).await.unwrap_err();
    expect_told(
        &status,
        "dataset_examples",
        [1, 0],
        "examples_per_tenant",
        false,
    );
    add(&examples[..1]).await.unwrap();
    let embed = v1::EmbedRequest {
        source: Some(v1::embed_request::Source::Content(clip(9))),
        ..Default::default()
    };
    let status = client.classification().embed(embed).await.unwrap_err();
    expect_told(&status, "admitted_clips", [0, 0], "clips_per_tenant", false);
    server.stop().await;
    let server = TestServer::start_with(|config| config.tenancy.at_once.requests = Some(0)).await;
    let client = server.client("acme").await;
    let request = v1::ListVideosRequest::default();
    let listed = client.videos().list_videos(request).await;
    refused(listed, Code::ResourceExhausted, "QUOTA_EXCEEDED");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_are_shown_with_what_is_used_and_outlive_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let bed = Bed::start_in(folder.path()).await;
    create_dataset(&bed.acme, "motion").await;
    let examples = bed.shown().await.usage.unwrap().dataset_examples;
    assert!(examples > 0, "{examples}");
    let quotas = v1::Quotas {
        dataset_examples: Some(100),
        open_upload_bytes: Some(1 << 40),
        concurrent_requests: Some(7),
        concurrent_streams: Some(6),
        concurrent_live_streams: Some(5),
        admitted_clips: Some(4),
        ..Default::default()
    };
    bed.set(quotas).await;
    bed.guarded.server.stop().await;
    let server = TestServer::start_on(crate::server::config(folder.path())).await;
    let acme = "acme".parse().unwrap();
    let at_once = server.wiring.tenants.at_once(&acme);
    let found = [
        at_once.requests,
        at_once.streams,
        at_once.live_streams,
        at_once.clips,
    ];
    assert_eq!(found, [Some(7), Some(6), Some(5), Some(4)]);
    server.stop().await;
}
