//! `frameshift classify --live`, run as people run it.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;

use super::command::{ask, output, program, run, word};
use crate::rpc_frames::jpeg;
use crate::server::{TestServer, trained};

/// Windows of a `--json` output by their numbers, each with the frames that it shows.
fn windows(lines: &[serde_json::Value]) -> Vec<(u64, Vec<u64>)> {
    let windows = lines.iter().filter(|line| line["type"] == "window");
    let window = |line: &serde_json::Value| {
        let frames = line["results"][0]["frames"].as_array().unwrap();
        let frames = frames.iter().map(|own| own["index"].as_u64().unwrap());
        (line["number"].as_u64().unwrap(), frames.collect())
    };
    windows.map(window).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_a_pipe_and_a_program_are_classified_as_windows_fill() {
    let server = TestServer::start().await;
    let client = server.client("default").await;
    trained(&client, "shade").await;
    let folder = tempfile::tempdir().unwrap();
    let mut all = Vec::new();
    for number in 0..6 {
        let bytes = jpeg(number);
        std::fs::write(folder.path().join(format!("{number:03}.jpg")), &bytes).unwrap();
        all.extend_from_slice(&bytes);
    }
    std::fs::write(folder.path().join("notes.txt"), "not a picture").unwrap();
    let live = [
        "classify", "--live", "--task", "shade", "--step", "1", "--stride", "2",
    ];
    let expected = [(0, vec![0, 1]), (1, vec![2, 3]), (2, vec![4, 5])];

    let of_folder = [&live[..], &["--json", word(folder.path())]].concat();
    let lines = ask(&server, &of_folder).await.ends(0).json();
    assert_eq!(windows(&lines), expected);
    let counts = lines.last().unwrap();
    assert_eq!(counts["type"], "counts");
    assert_eq!(
        (&counts["received"], &counts["windows"]),
        (&6.into(), &3.into())
    );
    assert_eq!(lines[1]["end"], 0.3);

    let text = ask(&server, &[&live[..], &[word(folder.path())]].concat())
        .await
        .ends(0);
    assert_eq!(text.out.lines().count(), 3, "{text:#?}");
    assert!(text.out.contains("[tasks/shade/versions/1]"), "{text:#?}");
    assert!(
        text.err.contains("6 pictures, 3 windows, 0 left out"),
        "{text:#?}"
    );

    // The same through standard input, and through a program in ffmpeg's place.
    let recording = folder.path().join("recording.mjpeg");
    std::fs::write(&recording, &all).unwrap();
    let address = server.address.to_string();
    let piped = [&live[..], &["--late", "wait", "--json", "-"]].concat();
    let mut command = program();
    command.args(["--server", &address]).args(&piped);
    command.stdin(Stdio::from(std::fs::File::open(&recording).unwrap()));
    assert_eq!(
        windows(&output(&mut command).await.ends(0).json()),
        expected
    );
    let ffmpeg = folder.path().join("ffmpeg");
    script(
        &ffmpeg,
        "for last; do :; done; [ \"$last\" = - ] && exec cat \"$(dirname \"$0\")/recording.mjpeg\"",
    );
    let camera = [
        "--late",
        "wait",
        "--json",
        "--ffmpeg",
        word(&ffmpeg),
        "/dev/video0",
    ];
    let lines = ask(&server, &[&live[..], &camera].concat())
        .await
        .ends(0)
        .json();
    assert_eq!(windows(&lines), expected);
    script(&ffmpeg, "exit 1");
    let failed = ask(&server, &[&live[..], &camera].concat()).await.ends(66);
    assert!(
        failed.err.contains("cannot read /dev/video0"),
        "{failed:#?}"
    );
    server.stop().await;
}

fn script(path: &Path, body: &str) {
    std::fs::write(path, format!("#!/bin/sh\n{body}\n")).unwrap();
    let executable = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(path, executable).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_a_live_stream_is_refused_before_anything_is_sent() {
    let live = ["classify", "--live", "--task", "shade"];
    for (words, code, said) in [
        (&["a", "b"][..], 64, "expected one folder"),
        (&["--stride", "1s", "-"], 64, "--step has to be given"),
        (&["--step", "soon", "-"], 64, "250ms"),
    ] {
        let ran = run(&[&live[..], words].concat()).await.ends(code);
        assert!(ran.err.contains(said), "{ran:#?}");
    }
    let without = run(&["classify", "--task", "shade", "--step", "2", "a"]).await;
    assert!(without.ends(64).err.contains("--live"));
}
