//! Several versions of one task at once: shares that are sticky by key, versions that watch, and the way back.

mod streams;

use std::collections::BTreeMap;
use std::path::Path;

use frameshift::client::Client;
use frameshift::proto::v1;
use tonic::{Code, Request, Status};

use crate::rpc_swaps::stored_version;
use crate::rpc_versions::{adapters, file, import, into_task};
use crate::server::{TestServer, classify, clip, config, refused, serving, until, upload};

const KEYS: usize = 24;

fn name(number: u32) -> String {
    format!("tasks/shade/versions/{number}")
}

/// Imports a version of the task whose best label is always this one, of `0` and `1`.
async fn publish(server: &TestServer, client: &Client, label: usize) {
    publish_with(server, client, label, &[]).await;
}

/// Imports such a version whose labels have these names; with none, they are numbers.
async fn publish_with(server: &TestServer, client: &Client, label: usize, names: &[&str]) {
    let mut tensors = adapters(server.wiring.backbone.config(), 2);
    let bias = tensors
        .iter_mut()
        .find(|own| own.name == "fc.bias")
        .unwrap();
    let values: [f32; 2] = std::array::from_fn(|row| if row == label { 50.0 } else { -50.0 });
    bias.bytes = values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect();
    let header = v1::ImportAdapterVersionHeader {
        create_task: true,
        labels: names.iter().map(|name| (*name).to_owned()).collect(),
        sampling: Some(v1::ClipSampling {
            num_frames: 2,
            ..Default::default()
        }),
        ..into_task("shade")
    };
    import(client, header, &file(&tensors)).await.unwrap();
}

/// A task whose version `n` always gives the label at place `n - 1`; the first one serves. Returns a video.
pub(crate) async fn versions(server: &TestServer, client: &Client, labels: &[usize]) -> String {
    publish(server, client, labels[0]).await;
    serving(client, "shade").await;
    let request = v1::UpdateTaskRequest {
        task: Some(v1::Task {
            name: "tasks/shade".into(),
            auto_serve: Some(false),
            ..Default::default()
        }),
        update_mask: None,
    };
    client.tasks().update_task(request).await.unwrap();
    for label in &labels[1..] {
        publish(server, client, *label).await;
    }
    upload(client, &clip(10)).await.unwrap().name
}

async fn task(client: &Client) -> v1::Task {
    let name = "tasks/shade".to_owned();
    let request = v1::GetTaskRequest { name };
    client.tasks().get_task(request).await.unwrap().into_inner()
}

fn shares(shares: &[(u32, u32)]) -> Vec<v1::ServingShare> {
    let share = |&(number, per_mille): &(u32, u32)| v1::ServingShare {
        version: name(number),
        per_mille,
    };
    shares.iter().map(share).collect()
}

async fn set(client: &Client, request: v1::SetServingRequest) -> Result<v1::Task, Status> {
    let request = v1::SetServingRequest {
        name: "tasks/shade".into(),
        etag: task(client).await.etag,
        ..request
    };
    Ok(client.tasks().set_serving(request).await?.into_inner())
}

async fn split(client: &Client, members: &[(u32, u32)], shadows: &[(u32, u32)]) -> v1::Task {
    let main = if members.is_empty() {
        name(1)
    } else {
        String::new()
    };
    let request = v1::SetServingRequest {
        version: main,
        split: shares(members),
        shadows: shares(shadows),
        ..Default::default()
    };
    set(client, request).await.unwrap()
}

/// Waits until every version of the split is ready or has failed.
async fn settled(client: &Client) -> v1::ServingSplit {
    let loading = i32::from(v1::ServingState::Loading);
    let is_settled = |task: &v1::Task| {
        let split = task.split.iter();
        let members = split
            .clone()
            .flat_map(|own| own.members.iter().map(|own| own.state));
        let shadows = split.flat_map(|own| own.shadows.iter().map(|own| own.state));
        let states: Vec<i32> = members.chain(shadows).collect();
        task.serving_version == task.desired_version && !states.contains(&loading)
    };
    until(|| async { is_settled(&task(client).await) }).await;
    task(client).await.split.unwrap_or_default()
}

/// Classifies with a key. Returns the version that answered and its best label.
async fn ask(client: &Client, video: &str, key: &str) -> Result<(String, String), Status> {
    let mut request = Request::new(classify("shade", video));
    let key = key.parse().unwrap();
    request.metadata_mut().insert("x-frameshift-key", key);
    let answer = client
        .classification()
        .classify(request)
        .await?
        .into_inner();
    Ok((answer.version, answer.predictions[0].label.clone()))
}

/// The version that answers each of many keys; each is asked for twice.
async fn by_key(client: &Client, video: &str, labels: &[usize]) -> BTreeMap<usize, String> {
    let mut answers = BTreeMap::new();
    for key in (0..KEYS).chain(0..KEYS) {
        let (version, label) = ask(client, video, &format!("user-{key}")).await.unwrap();
        let number: usize = version.rsplit('/').next().unwrap().parse().unwrap();
        assert_eq!(
            label,
            labels[number - 1].to_string(),
            "{version} answered itself"
        );
        let before = answers.insert(key, version.clone());
        assert!(
            before.is_none_or(|before| before == version),
            "key {key} moved"
        );
    }
    answers
}

fn of(answers: &BTreeMap<usize, String>, number: u32) -> usize {
    answers.values().filter(|own| **own == name(number)).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_stays_with_its_version_through_a_restart_and_every_answer_names_it() {
    let folder = tempfile::tempdir().unwrap();
    let server = TestServer::start_on(config(folder.path())).await;
    let client = server.client("acme").await;
    let labels = [0, 1];
    let video = versions(&server, &client, &labels).await;
    let asked = split(&client, &[(1, 500), (2, 500)], &[]).await;
    assert_eq!(
        (asked.desired_version, asked.serving_version),
        (name(1), name(1))
    );
    let split = settled(&client).await;
    let ready = i32::from(v1::ServingState::Ready);
    assert!(
        split.members.iter().all(|own| own.state == ready),
        "{split:?}"
    );
    let before = by_key(&client, &video, &labels).await;
    assert!(of(&before, 1) > 0 && of(&before, 2) > 0, "{before:?}");
    // Without a key the video decides.
    let mut seen = Vec::new();
    for _ in 0..3 {
        let request = classify("shade", &video);
        let answer = client.classification().classify(request).await.unwrap();
        seen.push(answer.into_inner().version);
    }
    seen.dedup();
    assert_eq!(seen.len(), 1);
    let text = server.wiring.metrics.text();
    for number in [1, 2] {
        let labels = format!("tenant=\"acme\",task=\"shade\",version=\"{number}\"");
        assert!(
            text.contains(&format!("classifications_total{{{labels}}}")),
            "{text}"
        );
        assert!(
            text.contains(&format!("classification_seconds_total{{{labels}}}")),
            "{text}"
        );
    }
    server.stop().await;

    let server = TestServer::start_on(config(folder.path())).await;
    let client = server.client("acme").await;
    assert_eq!(by_key(&client, &video, &labels).await, before);
    for bad in ["".to_owned(), "k".repeat(257)] {
        refused(
            ask(&client, &video, &bad).await,
            Code::InvalidArgument,
            "INVALID_FIELD",
        );
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_split_is_set_by_compare_and_swap_and_undone_in_one_call() {
    let server = TestServer::start().await;
    let client = server.client("acme").await;
    let labels = [0, 1];
    let video = versions(&server, &client, &labels).await;
    let rollback = || v1::SetServingRequest {
        rollback: true,
        ..Default::default()
    };
    let undone = set(&client, rollback()).await;
    refused(undone, Code::FailedPrecondition, "NOTHING_TO_ROLL_BACK");
    let stale = task(&client).await.etag;
    split(&client, &[(1, 500), (2, 500)], &[]).await;
    settled(&client).await;
    let request = v1::SetServingRequest {
        name: "tasks/shade".into(),
        etag: stale,
        version: name(2),
        ..Default::default()
    };
    let late = client.tasks().set_serving(request).await;
    refused(late, Code::Aborted, "ETAG_MISMATCH");
    let wrong = v1::SetServingRequest {
        split: shares(&[(1, 500), (2, 400)]),
        ..Default::default()
    };
    refused(
        set(&client, wrong).await,
        Code::InvalidArgument,
        "INVALID_FIELD",
    );
    let shared = by_key(&client, &video, &labels).await;
    assert!(of(&shared, 2) > 0);

    // The whole way to the new version, and back to the split in one call.
    let plain = v1::SetServingRequest {
        version: name(2),
        ..Default::default()
    };
    let task = set(&client, plain).await.unwrap();
    assert_eq!(task.previous.unwrap().members.len(), 2);
    settled(&client).await;
    assert_eq!(of(&by_key(&client, &video, &labels).await, 2), KEYS);
    let task = set(&client, rollback()).await.unwrap();
    assert_eq!(task.desired_version, name(1));
    assert_eq!(task.previous.unwrap().version, name(2));
    settled(&client).await;
    assert_eq!(by_key(&client, &video, &labels).await, shared);
    set(&client, rollback()).await.unwrap();
    settled(&client).await;
    assert_eq!(of(&by_key(&client, &video, &labels).await, 2), KEYS);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canary_that_fails_to_load_gets_no_requests_and_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let server = TestServer::start_on(config(folder.path())).await;
    let client = server.client("acme").await;
    let labels = [0, 1, 1];
    let video = versions(&server, &client, &labels).await;
    let path = stored_version(folder.path(), 2);
    let whole = std::fs::read(&path).unwrap();
    std::fs::write(&path, "damaged").unwrap();
    split(&client, &[(1, 500), (2, 500)], &[(3, 1000)]).await;
    let split_now = settled(&client).await;
    let failed = i32::from(v1::ServingState::Failed);
    assert_eq!(split_now.members[1].state, failed);
    assert!(
        split_now.members[1].error.contains("damaged"),
        "{split_now:?}"
    );
    assert_eq!(task(&client).await.serving_error, "");
    assert_eq!(of(&by_key(&client, &video, &labels).await, 1), KEYS);

    std::fs::write(&path, whole).unwrap();
    split(&client, &[(1, 500), (2, 500)], &[]).await;
    settled(&client).await;
    let answers = by_key(&client, &video, &labels).await;
    assert!(of(&answers, 1) > 0 && of(&answers, 2) > 0, "{answers:?}");
    server.stop().await;
}

/// A server with a version that was proved and is damaged since.
async fn broken(folder: &Path, number: u32) -> (TestServer, Client, String) {
    let server = TestServer::start_on(config(folder)).await;
    let client = server.client("acme").await;
    let video = versions(&server, &client, &[0, 1]).await;
    split(&client, &[(1, 500), (2, 500)], &[]).await;
    settled(&client).await;
    server.stop().await;
    std::fs::write(stored_version(folder, number), "damaged").unwrap();
    let server = TestServer::start_on(config(folder)).await;
    let client = server.client("acme").await;
    (server, client, video)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_breaks_gives_its_requests_to_the_rest_and_none_of_them_fails() {
    for number in [1, 2] {
        let folder = tempfile::tempdir().unwrap();
        let (server, client, video) = broken(folder.path(), number).await;
        let answers = by_key(&client, &video, &[0, 1]).await;
        assert_eq!(of(&answers, 3 - number), KEYS);
        let task = task(&client).await;
        let member = &task.split.unwrap().members[number as usize - 1];
        assert_eq!(member.state, i32::from(v1::ServingState::Failed));
        assert!(member.error.contains("damaged"), "{member:?}");
        assert_eq!(task.serving_error.is_empty(), number == 2);
        let failures = format!(
            "classification_failures_total{{tenant=\"acme\",task=\"shade\",version=\"{number}\"}} 1\n"
        );
        let text = server.wiring.metrics.text();
        assert!(text.contains(&failures), "one request found out: {text}");
        server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_that_watch_are_compared_and_answer_nobody() {
    let server = TestServer::start().await;
    let client = server.client("acme").await;
    let labels = [0, 1, 0];
    let video = versions(&server, &client, &labels).await;
    split(&client, &[], &[(2, 1000), (3, 1000)]).await;
    settled(&client).await;
    assert_eq!(of(&by_key(&client, &video, &labels).await, 1), KEYS);
    let seen = |own: &v1::ServingShadow| own.compared + own.failed + own.dropped;
    let expected = 2 * KEYS as i64;
    until(|| async {
        let split = task(&client).await.split.unwrap();
        split.shadows.iter().all(|own| seen(own) == expected)
    })
    .await;
    let shadows = task(&client).await.split.unwrap().shadows;
    let [differs, agrees] = &shadows[..] else {
        panic!("two versions watch: {shadows:?}")
    };
    for own in [differs, agrees] {
        assert_eq!((own.failed, own.state), (0, v1::ServingState::Ready.into()));
        assert!(own.compared > 0 && own.mean_device_time.is_some());
    }
    assert_eq!((differs.agreed, agrees.agreed), (0, agrees.compared));
    let text = server.wiring.metrics.text();
    let labels = "tenant=\"acme\",task=\"shade\",version=\"2\"";
    let count = format!(
        "shadow_requests_total{{{labels},outcome=\"disagreed\"}} {}\n",
        differs.compared
    );
    assert!(text.contains(&count), "{text}");
    assert!(
        text.contains(&format!("shadow_device_seconds_total{{{labels}}}")),
        "{text}"
    );
    assert!(
        !text.contains(&format!("classifications_total{{{labels}}}")),
        "{text}"
    );
    // A named version is no live traffic, and a new split begins anew.
    split(&client, &[], &[(2, 1000)]).await;
    let mut named = classify("shade", &video);
    named.options = Some(v1::ClassifyOptions {
        version: name(1),
        ..Default::default()
    });
    client.classification().classify(named).await.unwrap();
    let shadows = task(&client).await.split.unwrap().shadows;
    assert_eq!(seen(&shadows[0]), 0);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_with_a_split_is_deleted_with_all_its_versions() {
    let server = TestServer::start().await;
    let client = server.client("acme").await;
    let video = versions(&server, &client, &[0, 1, 1]).await;
    split(&client, &[(1, 500), (2, 500)], &[(3, 1000)]).await;
    settled(&client).await;
    by_key(&client, &video, &[0, 1]).await;
    let request = v1::DeleteTaskRequest {
        name: "tasks/shade".into(),
        ..Default::default()
    };
    client.tasks().delete_task(request).await.unwrap();
    for key in 0..KEYS {
        let gone = ask(&client, &video, &format!("user-{key}")).await;
        refused(gone, Code::NotFound, "TASK_NOT_FOUND");
    }
    let sets = || async {
        let request = v1::ListResidencyRequest {};
        let answer = client.tasks().list_residency(request).await.unwrap();
        answer.into_inner().sets
    };
    until(|| async { sets().await.is_empty() }).await;
    server.stop().await;
}
