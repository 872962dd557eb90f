//! The commands that embed videos and classify with several tasks.

use super::*;

/// Runs a command of the client.
async fn frameshift(server: &TestServer, arguments: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_frameshift"))
        .args(arguments)
        .args(["--tenant", "acme", "--server", &server.address.to_string()])
        .stdin(Stdio::null())
        .output()
        .await
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(text).unwrap())
}

/// The header's dictionary and the numbers of a `.npy` file of 32-bit floats.
fn numpy(bytes: &[u8]) -> (String, Vec<f32>) {
    assert_eq!(&bytes[..8], b"\x93NUMPY\x01\x00");
    let end = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    let text = std::str::from_utf8(&bytes[10..end]).unwrap();
    let values = bytes[end..].chunks_exact(4);
    let values = values.map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()));
    (text.trim_end().to_owned(), values.collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_writes_one_array_of_all_videos_and_an_index_of_its_rows() {
    let server = TestServer::start().await;
    let client = server.client("acme").await;
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    let stored = upload(&client, &clip(10)).await.unwrap().name;
    std::fs::write(path("a.mkv"), clip(20)).unwrap();
    std::fs::write(path("broken.mkv"), "no video").unwrap();
    let (out, file, broken) = (path("all.npy"), path("a.mkv"), path("broken.mkv"));
    let arguments = ["embed", "--out", &out, &stored, &broken, &file];
    let (code, text) = frameshift(&server, &arguments).await;
    assert_eq!(code, Some(65), "{text}");
    assert!(
        text.contains("broken.mkv") && text.contains("row 1"),
        "{text}"
    );

    let width = server.wiring.backbone.config().width;
    let (header, rows) = numpy(&std::fs::read(&out).unwrap());
    let expected = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': (2, {width},), }}");
    assert_eq!(header, expected);
    let mut own = Vec::new();
    for source in [
        v1::embed_request::Source::Video(stored.clone()),
        v1::embed_request::Source::Content(clip(20)),
    ] {
        let request = v1::EmbedRequest {
            source: Some(source),
            ..Default::default()
        };
        own.extend(values(embedded(&client, request).await.features.as_ref()).1);
    }
    assert_eq!(rows, own);
    let index = std::fs::read(path("all.json")).unwrap();
    let index: serde_json::Value = serde_json::from_slice(&index).unwrap();
    assert_eq!(index["shape"], serde_json::json!([2, width]));
    let videos: Vec<_> = (index["rows"].as_array().unwrap().iter())
        .map(|row| row["video"].as_str().unwrap())
        .collect();
    assert_eq!(videos, [&stored, &file]);

    // What is there is not replaced unless that is asked for.
    let (code, text) = frameshift(&server, &arguments).await;
    assert_eq!(code, Some(73), "{text}");
    let arguments = [
        "embed",
        "--out",
        &out,
        "--force",
        "--per-frame",
        "--f16",
        "--num-frames",
        "3",
        &file,
    ];
    let (code, text) = frameshift(&server, &arguments).await;
    assert_eq!(code, Some(0), "{text}");
    let (header, _) = numpy(&std::fs::read(&out).unwrap());
    let expected =
        format!("{{'descr': '<f2', 'fortran_order': False, 'shape': (1, 1, 3, {width},), }}");
    assert_eq!(header, expected);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_classifies_with_several_tasks_and_names_the_one_that_failed() {
    let server = TestServer::start().await;
    let client = server.client("acme").await;
    let video = trained(&client, "shade").await.remove(0).name;
    let tasks = ["--task", "shade", "--task", "never"];
    let arguments = [&["classify"], &tasks[..], &[&video, "--json"]].concat();
    let (code, text) = frameshift(&server, &arguments).await;
    assert_eq!(code, Some(1), "{text}");
    let lines: Vec<serde_json::Value> = (text.lines())
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect();
    let results = lines.iter().find_map(|line| line["results"].as_array());
    let [result] = results.expect("results").as_slice() else {
        panic!("one task answered: {text}");
    };
    assert_eq!(result["task"], "tasks/shade");
    assert_eq!(result["predictions"].as_array().unwrap().len(), 2);
    let reasons: Vec<_> = (lines.iter())
        .filter_map(|line| line["error"]["reason"].as_str())
        .collect();
    assert_eq!(reasons, ["TASK_NOT_FOUND"], "{text}");
    let arguments = [&["classify"], &tasks[..], &[&video, "--version", "1"]].concat();
    let (code, text) = frameshift(&server, &arguments).await;
    assert_eq!(code, Some(64), "{text}");
    server.stop().await;
}
