//! The command line, run as people run it.

use std::path::Path;

use frameshift::config::Backbone;
use frameshift::proto::v1;
use rustix::process::{Pid, Signal, kill_process};

use super::command::{ask, input, output, program, run, word};
use crate::server::{TestServer, serving, trained, until};

#[tokio::test(flavor = "multi_thread")]
async fn every_file_is_tried_and_every_refusal_named() {
    let server = TestServer::start().await;
    let client = server.client("default").await;
    trained(&client, "sides").await;
    serving(&client, "sides").await;
    let files = ["a.mp4", "b.mp4", "c.mp4"].map(|name| input("cli-1").join(name));
    let [a, b, c] = files.each_ref().map(|path| word(path));
    for command in [&["upload"][..], &["classify", "--task", "sides"]] {
        let words = [command, &[a, b, c]].concat();
        let text = ask(&server, &words).await.ends(65);
        assert_eq!(text.out.lines().count(), 2, "{text:#?}");
        assert!(text.out.contains(a) && text.out.contains(c), "{text:#?}");
        assert_eq!(text.err.matches(b).count(), 1, "{text:#?}");
        assert!(text.err.contains("1 of 3 files failed"), "{text:#?}");
        assert!(text.err.contains("(request "), "{text:#?}");
        let json = ask(&server, &[&words[..], &["--json"]].concat()).await;
        let lines = json.ends(65).json();
        assert_eq!(lines.len(), 3, "{lines:#?}");
        assert_eq!(lines[1]["type"], "error");
        assert_eq!(lines[1]["error"]["file"], b);
        assert_ne!(lines[0]["type"], "error");
    }
    // What the command left can be found and removed.
    let videos = ask(&server, &["videos", "list", "--json"]).await.ends(0);
    let uploaded = videos.json();
    let found = uploaded
        .iter()
        .find(|video| video["display_name"] == "a.mp4");
    let name = found.unwrap()["name"].as_str().unwrap().to_owned();
    let deleted = ask(&server, &["videos", "delete", &name, "--json"]).await;
    assert_eq!(deleted.ends(0).json()[0]["deleted"], name.as_str());
    let missing = ask(&server, &["upload", "/nowhere.mp4", c]).await.ends(66);
    let said = "cannot read /nowhere.mp4: No such file";
    assert!(missing.err.contains(said), "{missing:?}");
    server.stop().await;
}

async fn examples(client: &frameshift::client::Client, name: &str) -> i64 {
    let name = format!("datasets/{name}");
    let request = v1::GetDatasetRequest { name };
    let dataset = client.datasets().get_dataset(request).await;
    dataset.map_or(0, |dataset| dataset.into_inner().examples)
}

async fn videos(client: &frameshift::client::Client) -> usize {
    let request = v1::ListVideosRequest {
        page_size: 1000,
        page_token: String::new(),
    };
    let page = client.videos().list_videos(request).await.unwrap();
    page.into_inner().videos.len()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_data_set_is_resumed_by_the_same_command() {
    const OF_A_LABEL: usize = 120;
    let folder = tempfile::tempdir().unwrap();
    for (label, file) in [("a", "left.mp4"), ("b", "right.mp4")] {
        let place = folder.path().join("train").join(label);
        std::fs::create_dir_all(&place).unwrap();
        for number in 0..OF_A_LABEL {
            let to = place.join(format!("{number}.mp4"));
            std::fs::copy(input("cli-2").join(file), to).unwrap();
        }
    }
    let from = word(folder.path());
    let words = ["dataset", "create", "many", "--from", from];
    let mut rounds = 0..10;
    // A command that was quicker than the signal has nothing to be resumed.
    let (server, client) = loop {
        rounds.next().expect("it is interrupted in time");
        let server = TestServer::start().await;
        let client = server.client("default").await;
        let mut command = program();
        command.args(words).args(["--concurrency", "1"]);
        command.args(["--server", &server.address.to_string()]);
        command.stderr(std::process::Stdio::piped());
        let child = command.spawn().unwrap();
        until(|| async { examples(&client, "many").await > 0 }).await;
        let pid = Pid::from_raw(child.id().unwrap().cast_signed()).unwrap();
        kill_process(pid, Signal::INT).unwrap();
        let ended = child.wait_with_output().await.unwrap();
        if ended.status.success() {
            server.stop().await;
            continue;
        }
        let said = String::from_utf8(ended.stderr).unwrap();
        assert_eq!(ended.status.code(), Some(130), "{said}");
        assert!(said.contains("run the same command again"), "{said}");
        break (server, client);
    };
    let before = examples(&client, "many").await;
    assert!(before < 2 * OF_A_LABEL as i64, "it was interrupted");

    let again = ask(&server, &words).await.ends(0);
    assert!(again.err.contains("were there already"), "{again:?}");
    assert_eq!(examples(&client, "many").await, 2 * OF_A_LABEL as i64);
    // The one that was on its way may have been stored after the second command had asked for what there is.
    let stored = videos(&client).await;
    assert!(
        (2 * OF_A_LABEL..=2 * OF_A_LABEL + 1).contains(&stored),
        "{stored}"
    );
    // A log without a terminal stays short.
    assert!(again.err.lines().count() < 20, "{}", again.err);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn options_that_contradict_a_task_are_refused_and_what_was_not_measured_has_no_number() {
    let server = TestServer::start_with(|config| config.backbone = Backbone::Builtin).await;
    let data = input("cli-3/data");
    let create = ["dataset", "create", "sides", "--from", word(&data)];
    ask(&server, &create).await.ends(0);
    let train = [
        "train",
        "--task",
        "sides",
        "--dataset",
        "sides",
        "--epochs",
        "1",
    ];
    let first = [&train[..], &["--adapter-width", "16", "--json"]].concat();
    let lines = ask(&server, &first).await.ends(0).json();
    let kinds: Vec<&str> = lines
        .iter()
        .filter_map(|line| line["type"].as_str())
        .collect();
    assert_eq!(kinds.len(), lines.len(), "{lines:#?}");
    assert_eq!(
        kinds.iter().filter(|kind| **kind == "job").count(),
        1,
        "{kinds:?}"
    );
    let second = [
        "--adapter-width",
        "64",
        "--sites",
        "both",
        "--num-frames",
        "16",
    ];
    let refused = ask(&server, &[&train[..], &second].concat()).await.ends(64);
    let said = "tasks/sides has pre-mlp where --sites both was given";
    assert!(refused.err.contains(said), "{refused:?}");
    let wide = [&train[..], &["--adapter-width", "64"]].concat();
    let refused = ask(&server, &wide).await.ends(64);
    let said =
        "tasks/sides has 16 where --adapter-width 64 was given; the shape of a task cannot change";
    assert!(refused.err.contains(said), "{refused:?}");
    let jobs = ask(&server, &["jobs", "list", "--json"])
        .await
        .ends(0)
        .json();
    assert_eq!(jobs.len(), 1, "a refused command submits no job");

    let versions = ask(&server, &["tasks", "versions", "sides"]).await.ends(0);
    assert!(versions.out.contains("top-1 –"), "{versions:?}");
    let (probe, labels) = (input("cli-3/probe.pth"), input("cli-3/labels.txt"));
    let import = [
        "import",
        word(&probe),
        "--task",
        "other",
        "--labels",
        word(&labels),
    ];
    ask(&server, &import).await.ends(0);
    let versions = ask(&server, &["tasks", "versions", "other"]).await.ends(0);
    assert!(versions.out.contains("top-1 –"), "{versions:?}");
    let json = ask(&server, &["tasks", "versions", "other", "--json"]).await;
    assert!(json.ends(0).json()[0]["evaluation"].is_null());
    let other = [&import[..], &["--num-frames", "16"]].concat();
    let refused = ask(&server, &other).await.ends(64);
    assert!(
        refused.err.contains("--num-frames 16 was given"),
        "{refused:?}"
    );

    let deleted = ask(&server, &["tasks", "delete", "other", "--json"]).await;
    assert_eq!(deleted.ends(0).json()[0]["deleted"], "tasks/other");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exit_code_means_the_same_in_every_command() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let (garbage, taken, nowhere) = (at("garbage.pth"), at("taken.safetensors"), at("no/x.pth"));
    std::fs::write(&garbage, b"no checkpoint").unwrap();
    std::fs::write(&taken, b"mine").unwrap();
    let (garbage, taken) = (word(&garbage), word(&taken));
    for (code, words) in [
        (66, &["inspect", "/nowhere.pth"][..]),
        (
            66,
            &[
                "convert",
                "/nowhere.pth",
                "--out",
                word(&at("out.safetensors")),
            ],
        ),
        (66, &["video", "probe", "/nowhere.mp4"]),
        (
            66,
            &["bench", "compute", "infer", "--backbone", "/nowhere.pth"],
        ),
        (65, &["inspect", garbage]),
        (
            65,
            &["convert", garbage, "--out", word(&at("out.safetensors"))],
        ),
        (65, &["video", "probe", garbage]),
        (73, &["convert", garbage, "--out", taken]),
        (73, &["export", "--task", "t", "--out", taken]),
        (64, &["bench", "compute", "load"]),
        (64, &["export", "--task", "t", "--out", "t.onnx"]),
        (
            64,
            &[
                "train",
                "--task",
                "t",
                "--dataset",
                "d",
                "--adapter-kernel",
                "3,1",
            ],
        ),
        (64, &["--server", "ftp://127.0.0.1:1", "info"]),
        (69, &["--server", "https://127.0.0.1:1", "info"]),
        (69, &["--server", "127.0.0.1:1", "info"]),
        (69, &["info", "--server", "127.0.0.1:1"]),
    ] {
        let ran = run(words).await;
        assert_eq!(ran.code, Some(code), "{words:?}: {ran:#?}");
    }
    let exists = run(&["export", "--task", "t", "--out", taken]).await;
    assert!(exists.err.contains("--force"), "{exists:?}");
    let negative = [
        "train",
        "--task",
        "t",
        "--dataset",
        "d",
        "--learning-rate",
        "-1",
    ];
    let negative = run(&[&negative[..], &["--server", "127.0.0.1:1"]].concat()).await;
    assert_eq!(
        negative.code,
        Some(69),
        "a negative number is a value: {negative:?}"
    );
    assert!(!nowhere.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_cannot_be_written_is_named_and_no_other() {
    let server = TestServer::start().await;
    let client = server.client("default").await;
    trained(&client, "sides").await;
    serving(&client, "sides").await;
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("missing/sides.pth");
    let export = ["export", "--task", "sides", "--out", word(&out)];
    let ran = ask(&server, &export).await.ends(73);
    assert!(ran.err.contains(word(&out)), "{ran:?}");
    assert!(!ran.err.contains(".export-"), "{ran:?}");

    let out = folder.path().join("sides.pth");
    let export = ["export", "--task", "sides", "--out", word(&out)];
    ask(&server, &export).await.ends(0);
    let shown = run(&["inspect", word(&out)]).await.ends(0);
    assert!(
        !shown.out.contains("not read"),
        "an import reads the manifest: {shown:?}"
    );
    server.stop().await;
}

/// An error that was printed for programs.
fn error_of(ran: &super::command::Ran) -> serde_json::Value {
    let line = ran.err.lines().last().unwrap_or_default();
    let value: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|_| panic!("{ran:?}"));
    assert_eq!(value["type"], "error");
    assert_eq!(value["error"]["exit_code"], ran.code.unwrap());
    assert!(value["error"]["message"].is_string(), "{value}");
    value["error"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_error_is_json_where_that_was_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let empty = word(folder.path());
    for (code, words) in [
        (64, &["tasks", "list", "--json", "--no-such-option"][..]),
        (64, &["--json", "no-such-command"]),
        (64, &["--json"]),
        (64, &["classify", "--json", "a.mp4"]),
        (64, &["info", "--json", "--server", "::1"]),
        (64, &["--server", "host/path", "--json", "health"]),
        (64, &["info", "--server", "127.0.0.1:70000", "--json"]),
        (
            64,
            &["dataset", "create", "not an id", "--from", empty, "--json"],
        ),
        (64, &["export", "--task", "t", "--out", "t.onnx", "--json"]),
        (65, &["dataset", "create", "d", "--from", empty, "--json"]),
        (
            66,
            &["dataset", "create", "d", "--from", "/nowhere", "--json"],
        ),
        (66, &["inspect", "/nowhere.pth", "--json"]),
        (66, &["--json", "inspect", "/nowhere.pth"]),
        (66, &["import", "/nowhere.pth", "--task", "t", "--json"]),
        (69, &["--json", "--server", "[::1]:1", "health"]),
        (
            69,
            &[
                "upload",
                "--json",
                "--server",
                "127.0.0.1:1",
                "/nowhere.mp4",
            ],
        ),
        (69, &["tasks", "--json", "list", "--server", "127.0.0.1:1"]),
    ] {
        let ran = run(words).await;
        assert_eq!(ran.code, Some(code), "{words:?}: {ran:#?}");
        error_of(&ran);
        assert_eq!(ran.out, "", "{words:?}");
    }
    // The word after `--` is a name.
    let ran = run(&["classify", "--", "--json"]).await.ends(64);
    assert!(ran.err.starts_with("error: "), "{ran:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn options_may_stand_anywhere_and_addresses_be_of_any_family() {
    let server = TestServer::start().await;
    let address = server.address.to_string();
    let url = format!("http://{address}/");
    for words in [
        &["--server", &address, "--tenant", "acme", "--json", "info"][..],
        &["info", "--json", "--tenant", "acme", "--server", &url],
        &["--json", "info", "--server", &address, "--tenant", "acme"],
        &["--tenant=acme", "info", "--json", "--server", &address],
    ] {
        let info = run(words).await.ends(0).json();
        assert_eq!(info[0]["tenant"], "acme", "{words:?}");
    }
    for words in [
        &["tasks", "--server", &address, "list"][..],
        &["--server", &address, "tasks", "list"],
        &["tasks", "list", "--server", &address],
    ] {
        run(words).await.ends(0);
    }
    // A variable that is set to nothing says nothing.
    let mut command = program();
    for name in ["TENANT", "SERVER", "API_KEY", "API_KEY_FILE", "TLS_CA"] {
        command.env(format!("FRAMESHIFT_{name}"), "");
    }
    command.args(["--server", &address, "--json", "info"]);
    let info = output(&mut command).await.ends(0).json();
    assert_eq!(info[0]["tenant"], "default");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_environment_names_server_and_tenant() {
    let server = TestServer::start().await;
    let mut command = program();
    command.env("FRAMESHIFT_SERVER", server.address.to_string());
    command
        .env("FRAMESHIFT_TENANT", "acme")
        .args(["info", "--json"]);
    let info = output(&mut command).await.ends(0).json();
    assert_eq!(info[0]["tenant"], "acme");
    let mut command = program();
    command.env("FRAMESHIFT_SERVER", "127.0.0.1:1");
    let address = server.address.to_string();
    command.args(["--server", &address, "--tenant", "b", "info", "--json"]);
    let info = output(&mut command).await.ends(0).json();
    assert_eq!(info[0]["tenant"], "b");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_job_says_its_reason_once() {
    let server = TestServer::start().await;
    let client = server.client("default").await;
    crate::server::create_task(&client, "sides").await;
    let folder = tempfile::tempdir().unwrap();
    only_validation(folder.path());
    let create = ["dataset", "create", "held", "--from", word(folder.path())];
    ask(&server, &create).await.ends(0);
    let ran = ask(&server, &["train", "--task", "sides", "--dataset", "held"]).await;
    let ran = ran.ends(1);
    let all = format!("{}{}", ran.out, ran.err);
    assert_eq!(
        all.matches("there is no training example").count(),
        1,
        "{all}"
    );
    server.stop().await;
}

/// A folder that no job can train on: its only split is for validation.
fn only_validation(folder: &Path) {
    let place = folder.join("val/left");
    std::fs::create_dir_all(&place).unwrap();
    std::fs::copy(input("cli-1/a.mp4"), place.join("a.mp4")).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_json_log_is_json_from_its_first_line() {
    let folder = tempfile::tempdir().unwrap();
    let address = folder.path().join("address");
    let mut command = crate::server_process::command(folder.path());
    command
        .args(["--log-format", "json", "--address-file"])
        .arg(&address)
        .env("FRAMESHIFT_QUEUE_CLIP", "3")
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped());
    let child = command.spawn().unwrap();
    let pid = Pid::from_raw(child.id().unwrap().cast_signed()).unwrap();
    until(|| async { address.is_file() }).await;
    kill_process(pid, Signal::TERM).unwrap();
    let ended = child.wait_with_output().await.unwrap();
    let lines = [ended.stdout, ended.stderr].concat();
    let lines = String::from_utf8(lines).unwrap();
    for line in lines.lines() {
        let value: Result<serde_json::Value, _> = serde_json::from_str(line);
        assert!(value.is_ok(), "{line}");
    }
    assert!(lines.contains("FRAMESHIFT_QUEUE_CLIP"), "{lines}");
}
