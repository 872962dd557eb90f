//! `frameshift classify --dataset` and `--folder`: every video once in the file, with the scores of Classify, and on after an interruption.

use std::path::Path;

use frameshift::client::Client;
use frameshift::proto::v1;
use serde_json::Value;
use tokio::process::Command;

use crate::processes::output;
use crate::reports::command::{ask, program, word};
use crate::server::{TestServer, classify, clip, trained, until, upload};

fn lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
    lines.collect()
}

/// The scores of a clip by Classify, by label.
async fn scores(client: &Client, video: &str) -> Vec<(String, f64)> {
    let answer = client
        .classification()
        .classify(classify("shades", video))
        .await;
    let predictions = answer.unwrap().into_inner().predictions;
    // With their own digits, as they are printed.
    let own = |own: v1::Prediction| (own.label, own.score.to_string().parse().unwrap());
    predictions.into_iter().map(own).collect()
}

fn predicted(line: &Value) -> Vec<(String, f64)> {
    let predictions = line["predictions"].as_array().unwrap();
    let own = |own: &Value| {
        let label = own["label"].as_str().unwrap().to_owned();
        (label, own["score"].as_f64().unwrap())
    };
    predictions.iter().map(own).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_set_is_classified_whole_whatever_its_labels() {
    let server = TestServer::start().await;
    let client = server.client("default").await;
    trained(&client, "shades").await;
    let grey = upload(&client, &clip(120)).await.unwrap().name;
    let example = v1::Example {
        video: grey.clone(),
        label: "grey".into(),
        split: v1::Split::Test.into(),
        ..Default::default()
    };
    let request = v1::AddExamplesRequest {
        name: "datasets/shades".into(),
        examples: vec![example],
    };
    client.datasets().add_examples(request).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("scores.jsonl");
    let words = ["classify", "--task", "shades", "--dataset", "shades"];
    let with = |more: &[&'static str]| [&words[..], more].concat();
    let own = [&words[..], &["--out", word(&out)]].concat();
    let told = ask(&server, &own).await.ends(0);
    assert!(
        told.out
            .contains("7 videos classified by tasks/shades/versions/1"),
        "{told:?}"
    );
    let all = lines(&out);
    assert_eq!(all.len(), 7);
    for line in &all {
        let video = line["video"].as_str().unwrap();
        assert_eq!(predicted(line), scores(&client, video).await, "{line}");
        let is_grey = video == grey;
        assert_eq!(line["unknown_label"], is_grey);
        assert_eq!(line["rank"] == 0, is_grey);
    }
    as_parquet(&server, folder.path(), &all).await;
    // A file that is there is not replaced unasked.
    let refused = ask(&server, &own).await;
    assert!(
        refused.code != Some(0) && lines(&out).len() == 7,
        "{refused:?}"
    );
    let own = [&own[..], &["--force", "--split", "test"]].concat();
    ask(&server, &own).await.ends(0);
    let [line] = &lines(&out)[..] else {
        panic!("the only clip of the test split")
    };
    assert_eq!(line["video"], grey.as_str());
    // What makes no sense together is refused before anything is sent.
    for more in [
        &[][..],
        &["--out", "/x", "video.mp4"],
        &["--out", "/x", "--live"],
        &["--out", "/x.parquet", "--format", "jsonl"],
        &["--out", "/x.jsonl", "--format", "parquet"],
        &["--format", "parquet"],
    ] {
        ask(&server, &with(more)).await.ends(64);
    }
    // Without a split, an evaluation has nothing to measure.
    let request = v1::EvaluateVersionRequest {
        version: "tasks/shades/versions/1".into(),
        dataset: "datasets/shades".into(),
        ..Default::default()
    };
    let refused = client.tasks().evaluate_version(request).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::InvalidArgument);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_is_classified_on_from_where_it_was_killed() {
    let server = TestServer::start().await;
    let client = server.client("default").await;
    trained(&client, "shades").await;
    let folder = tempfile::tempdir().unwrap();
    let videos = folder.path().join("videos");
    std::fs::create_dir_all(videos.join("below")).unwrap();
    for i in 0..120_u8 {
        let below = if i % 2 == 0 { "" } else { "below/" };
        let path = videos.join(format!("{below}{i:03}.mkv"));
        std::fs::write(path, clip(i / 8)).unwrap();
    }
    std::fs::write(videos.join("050b.mkv"), b"no video").unwrap();
    std::fs::write(videos.join("notes.txt"), b"no video either").unwrap();
    let command = |out: &Path| {
        let mut command = program();
        command.args(["--server", &server.address.to_string()]);
        command.args(["classify", "--task", "shades", "--folder", word(&videos)]);
        command.args(["--out", word(out)]);
        command
    };
    let whole = folder.path().join("whole.jsonl");
    let ran = output(&mut command(&whole)).await;
    assert!(ran.status.success(), "{ran:?}");
    let expected = lines(&whole);
    assert_eq!(expected.len(), 121);
    let names: Vec<&str> = expected
        .iter()
        .map(|own| own["video"].as_str().unwrap())
        .collect();
    assert!(
        names.is_sorted() && names.contains(&"below/001.mkv"),
        "{names:?}"
    );
    let broken: Vec<&Value> = expected
        .iter()
        .filter(|own| !own["error"].is_null())
        .collect();
    assert_eq!(
        (broken.len(), &broken[0]["video"]),
        (1, &Value::from("050b.mkv"))
    );
    assert_eq!(expected[0]["version"], "tasks/shades/versions/1");
    assert_eq!(predicted(&expected[0]).len(), 2);

    let out = folder.path().join("cut.jsonl");
    let state = folder.path().join("cut.jsonl.resume");
    kill(|| command(&out), (&out, &state)).await;
    assert!(lines(&out).len() < 121);
    let ran = output(&mut command(&out)).await;
    assert!(ran.status.success(), "{ran:?}");
    assert_eq!(
        without_requests(lines(&out)),
        without_requests(expected.clone())
    );
    assert!(!state.exists());

    let out = folder.path().join("cut.parquet");
    cut_parquet(&out, command, expected).await;
    server.stop().await;
}

/// Classifies the data set into a Parquet file, which has the fields of these lines, and so has one of an evaluation.
async fn as_parquet(server: &TestServer, folder: &Path, lines: &[Value]) {
    let table = folder.join("scores.parquet");
    let words = ["classify", "--task", "shades", "--dataset", "shades"];
    let own = [&words[..], &["--out", word(&table)]].concat();
    ask(server, &own).await.ends(0);
    let read = crate::rows::read(&table);
    assert_eq!(read.rows, without_types(lines));
    assert_eq!(read.about["frameshift.version"], "tasks/shades/versions/1");
    assert_eq!(read.about["frameshift.dataset"], "datasets/shades");
    assert_eq!(read.about["frameshift.split"], "all");
    let evaluated = folder.join("evaluated.parquet");
    let words = ["evaluate", "--task", "shades", "--dataset", "shades"];
    let more = ["--split", "train", "--out", word(&evaluated)];
    let own = [&words[..], &more].concat();
    ask(server, &own).await.ends(0);
    let trained = crate::rows::read(&evaluated).rows;
    assert!(!trained.is_empty() && trained.iter().all(|row| read.rows.contains(row)));
    ask(server, &own).await.ends(73);
}

/// Kills a command between its first answer and its last one: when it has been quicker than this test, another one.
async fn kill(command: impl Fn() -> Command, (out, state): (&Path, &Path)) {
    for _ in 0..10 {
        let mut child = command().spawn().unwrap();
        until(|| {
            let is_over = state.exists() || child.try_wait().unwrap().is_some();
            async move { is_over }
        })
        .await;
        // It may have ended.
        let _ = child.start_kill();
        child.wait().await.unwrap();
        if state.exists() {
            return;
        }
        std::fs::remove_file(out).unwrap();
    }
    panic!("it was killed too late ten times");
}

/// Kills a command that classifies a folder into a Parquet file and runs it again: nothing has the file's name before it is whole, and it has the fields of
/// the lines that are expected.
async fn cut_parquet(out: &Path, command: impl Fn(&Path) -> Command, expected: Vec<Value>) {
    let state = out.with_extension("parquet.lines.resume");
    kill(|| command(out), (out, &state)).await;
    assert!(!out.exists());
    let ran = output(&mut command(out)).await;
    assert!(ran.status.success(), "{ran:?}");
    let read = crate::rows::read(out);
    let row = |mut line: Value| {
        if let Some(error) = line.pointer_mut("/error/error").map(Value::take) {
            line["error"] = error;
            for absent in ["version", "confidence", "unknown"] {
                line[absent] = Value::Null;
            }
        }
        line
    };
    let own: Vec<Value> = without_requests(expected).into_iter().map(row).collect();
    assert_eq!(without_requests(read.rows), without_types(&own));
    assert_eq!(read.about["frameshift.version"], "tasks/shades/versions/1");
    let left = std::fs::read_dir(out.parent().unwrap()).unwrap();
    let left = left.filter(|entry| {
        let name = entry.as_ref().unwrap().file_name();
        name.to_string_lossy().starts_with("cut.parquet")
    });
    assert_eq!(left.count(), 1);
}

/// Lines without the kind that each of them has.
fn without_types(lines: &[Value]) -> Vec<Value> {
    let mut lines = lines.to_vec();
    for line in &mut lines {
        line.as_object_mut().unwrap().remove("type");
    }
    lines
}

/// Lines without what differs from call to call: the ids of requests.
fn without_requests(mut lines: Vec<Value>) -> Vec<Value> {
    for line in &mut lines {
        let place = match line.pointer("/error/error") {
            Some(_) => "/error/error",
            None => "/error",
        };
        let Some(error) = line.pointer_mut(place).filter(|error| !error.is_null()) else {
            continue;
        };
        assert!(error["request_id"].take().is_string(), "{error}");
        let message = error["message"].as_str().unwrap();
        let (message, _) = message.split_once(" (request ").unwrap();
        error["message"] = message.into();
    }
    lines
}
