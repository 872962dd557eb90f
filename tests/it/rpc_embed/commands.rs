//! The commands that embed videos and classify with several tasks.

use std::path::Path;

use serde_json::Value;

use super::*;

/// Runs a command of the client.
async fn frameshift(server: &TestServer, arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_frameshift"));
    command
        .args(arguments)
        .args(["--tenant", "acme", "--server", &server.address.to_string()])
        .stdin(Stdio::null());
    let output = crate::processes::output(&mut command).await;
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

/// The rows of an array `[…, width]` of a `.npy` file, by their bits.
fn rows_of(path: &str, width: usize, bytes: usize) -> Vec<Vec<u32>> {
    let file = std::fs::read(path).unwrap();
    let end = 10 + usize::from(u16::from_le_bytes([file[8], file[9]]));
    let numbers = file[end..].chunks_exact(bytes).map(|number| {
        let mut wide = [0; 4];
        wide[..bytes].copy_from_slice(number);
        u32::from_le_bytes(wide)
    });
    let numbers: Vec<u32> = numbers.collect();
    numbers.chunks(width).map(<[u32]>::to_vec).collect()
}

/// Checks the rows of a Parquet file against the index beside the array of the same videos: a stored one, and a file.
fn check_rows(rows: &[Value], index: &Value, (per_frame, file): (bool, &str)) {
    let mut rows = rows.iter();
    let indexed = index["rows"].as_array().unwrap().iter();
    for (own, on_disk) in indexed.zip([None, Some(file)]) {
        let sampled = own["frames"].as_array().unwrap();
        let count = if per_frame { sampled.len() } else { 1 };
        for at in 0..count {
            let row = rows.next().expect("a row");
            assert_eq!(row["video"], own["video"]);
            assert_eq!(row["path"].as_str(), on_disk);
            if per_frame {
                assert_eq!(row["frame_index"], sampled[at]["index"]);
                assert_eq!(row["time_seconds"], sampled[at]["time_seconds"]);
                let place = (row["view"].as_u64(), row["frame"].as_u64());
                assert_eq!(place, (Some(0), Some(at as u64)));
                continue;
            }
            let last = &sampled[sampled.len() - 1];
            assert_eq!(row["frames"], own["frames"]);
            assert_eq!(row["start_seconds"], sampled[0]["time_seconds"]);
            assert_eq!(row["end_seconds"], last["time_seconds"]);
        }
    }
    assert!(rows.next().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn parquet_has_the_arrays_features_by_the_bit_with_where_they_are_from() {
    let server = TestServer::start().await;
    let client = server.client("acme").await;
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    let stored = trained(&client, "shade").await.remove(0).name;
    std::fs::write(path("a.mkv"), clip(20)).unwrap();
    let width = server.wiring.backbone.config().width;
    let file = path("a.mkv");
    let digest = server.wiring.backbone.digest().0;
    let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    for (name, options, bytes) in [
        ("clips", &["--normalize"][..], 4),
        ("half", &["--f16", "--task", "shade"], 2),
        ("frames", &["--per-frame", "--num-frames", "3"], 4),
        ("both", &["--per-frame", "--f16", "--before-final-norm"], 2),
    ] {
        let [npy, parquet, index] =
            ["npy", "parquet", "json"].map(|end| path(&format!("{name}.{end}")));
        for out in [&npy, &parquet] {
            let fixed = ["embed", "--out", out.as_str()];
            let arguments = [&fixed[..], options, &[stored.as_str(), file.as_str()]].concat();
            let (code, text) = frameshift(&server, &arguments).await;
            assert_eq!(code, Some(0), "{text}");
        }
        let read = crate::rows::read(Path::new(&parquet));
        assert_eq!(read.features, rows_of(&npy, width, bytes), "{name}");
        let has = |option: &str| options.contains(&option);
        let told = |key: &str| read.about[&format!("frameshift.{key}")].clone();
        let version = match has("--task") {
            true => "tasks/shade/versions/1",
            false => "",
        };
        let element = if bytes == 2 { "f16" } else { "f32" };
        assert_eq!(
            (told("backbone_digest"), told("version")),
            (digest.clone(), version.into())
        );
        assert_eq!(
            (told("element_type"), told("width")),
            (element.into(), width.to_string())
        );
        for (key, option) in [
            ("normalized", "--normalize"),
            ("per_frame", "--per-frame"),
            ("before_final_norm", "--before-final-norm"),
        ] {
            assert_eq!(told(key), has(option).to_string(), "{name} {key}");
        }
        let index = std::fs::read(index).unwrap();
        let index: Value = serde_json::from_slice(&index).unwrap();
        check_rows(&read.rows, &index, (has("--per-frame"), &file));
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parquet_file_of_features_is_there_when_it_is_whole_and_its_ending_is_its_forms() {
    let server = TestServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    let [file, broken] = ["a.mkv", "broken.mkv"].map(path);
    std::fs::write(&file, clip(20)).unwrap();
    std::fs::write(&broken, "no video").unwrap();
    let [there, new, other] = ["there.parquet", "new.npy", "other"].map(path);
    let embed = async |words: &[&str]| {
        let (code, text) = frameshift(&server, &[&["embed"][..], words].concat()).await;
        (code.expect("a code"), text)
    };
    // A video that fails has no row.
    let (code, text) = embed(&["--out", &there, &broken, &file]).await;
    assert_eq!(code, 65, "{text}");
    assert_eq!(crate::rows::read(Path::new(&there)).rows.len(), 1);
    // When all do, there is no file.
    let (code, text) = embed(&["--out", &other, "--format", "parquet", &broken, &broken]).await;
    assert_eq!(code, 65, "{text}");
    for (expected, words) in [
        (73, &["--out", &there, &file][..]),
        (64, &["--out", &there, "--force", "--format", "npy", &file]),
        (64, &["--out", &new, "--format", "parquet", &file]),
        (73, &["--out", "/no/such/folder/x.parquet", &file]),
    ] {
        let (code, text) = embed(words).await;
        assert_eq!(code, expected, "{text}");
    }
    let mut names: Vec<String> = std::fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["a.mkv", "broken.mkv", "there.parquet"]);
    server.stop().await;
}
