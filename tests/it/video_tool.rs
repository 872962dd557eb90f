//! `frameshift video`: the program itself, on good and bad files.

use std::path::Path;
use std::process::{Command, Output};

use frameshift::video::encode::{Encoder, Format, Settings};
use serde_json::Value;

use crate::decoding::config;
use crate::shared;

fn video(arguments: &[&str]) -> Output {
    Command::new(config().program)
        .arg("video")
        .args(arguments)
        .output()
        .expect("it runs")
}

fn json(output: &Output) -> Value {
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// Pictures whose brightness is ten times their number.
fn drawn(mut encoder: Encoder, frames: u8) -> Vec<u8> {
    for i in 0..frames {
        encoder.push(&[i * 10; 64 * 48 * 3]).expect("a picture");
    }
    encoder.finish().expect("a file")
}

fn write(path: &Path, bytes: &[u8]) {
    std::fs::write(path, bytes).expect("written");
}

#[test]
fn a_probe_is_json_and_a_refusal_says_why() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("clip");
    let name = path.to_str().expect("a text");
    let encoder = Encoder::new(Format::Mp4, 64, 48, 25).expect("an encoder");
    write(&path, &drawn(encoder, 20));
    let facts = json(&video(&["probe", name]));
    assert_eq!(facts["container"], "mov");
    assert_eq!(
        (&facts["width"], &facts["frames"]),
        (&64.into(), &20.into())
    );
    assert_eq!(facts["warnings"], Value::Array(Vec::new()));
    assert_eq!(
        (&facts["rotation_degrees"], &facts["mirrored"]),
        (&0.into(), &false.into())
    );
    assert_eq!(facts["reference_frames"], 20);
    let limited = video(&["probe", name, "--video-frames", "10"]);
    assert_eq!(limited.status.code(), Some(65));
    let error = String::from_utf8_lossy(&limited.stderr);
    assert!(
        error.contains("more than 10 frames (video_frames)"),
        "{error}"
    );

    let mirrored = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/data/reports/video-1/mirrored.mp4"
    );
    let facts = json(&video(&["probe", mirrored, "--order", "reference"]));
    assert_eq!(
        (&facts["rotation_degrees"], &facts["mirrored"]),
        (&0.into(), &true.into())
    );

    write(&path, b"no video at all");
    let refused = video(&["probe", name]);
    assert_eq!(refused.status.code(), Some(65));
    let error = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(error.matches("not recognised").count(), 1, "{error}");
    assert_eq!(video(&["probe", "/nowhere.mp4"]).status.code(), Some(66));
    let usage = video(&["frames", name, "--fps", "5", "--sampling-rate", "2"]);
    assert_eq!(usage.status.code(), Some(64), "one sampling at a time");
}

/// The indices that a command's answer names, and the brightness of each cell's centre.
fn sheet(arguments: &[&str], out: &Path) -> (Vec<u64>, Vec<u8>) {
    let out_name = out.to_str().expect("a text");
    let sampled = json(&video(
        &[&["frames", "--out", out_name], arguments].concat(),
    ));
    let frames = sampled["frames"].as_array().expect("frames").clone();
    let indices = frames
        .iter()
        .map(|frame| frame["index"].as_u64().expect("a number"));
    let file = std::io::BufReader::new(std::fs::File::open(out).expect("a sheet"));
    let mut reader = png::Decoder::new(file).read_info().expect("a picture");
    let mut pixels = vec![0; reader.output_buffer_size().expect("a size")];
    let info = reader.next_frame(&mut pixels).expect("a picture");
    let columns = (info.width as usize + 4) / 68;
    let cells = (0..frames.len()).map(|place| {
        let (x, y) = (place % columns * 68 + 32, place / columns * 52 + 24);
        pixels[(y * info.width as usize + x) * 4]
    });
    (indices.collect(), cells.collect())
}

#[test]
fn the_sheet_shows_the_sampled_frames() {
    let folder = tempfile::tempdir().expect("a folder");
    let (path, out) = (folder.path().join("clip"), folder.path().join("sheet.png"));
    let name = path.to_str().expect("a text");
    let lossless = Settings::new("ffv1", "matroska");
    let encoder = Encoder::with(&lossless, 64, 48, 10).expect("an encoder");
    write(&path, &drawn(encoder, 20));
    for (options, expected) in [
        (&["--num-frames", "4"][..], &[2, 7, 12, 16][..]),
        (&["--num-frames", "3", "--sampling-rate", "5"], &[4, 9, 14]),
        (&["--num-frames", "3", "--fps", "2"], &[0, 5, 10]),
        (
            &[
                "--num-frames",
                "2",
                "--window",
                "0.5",
                "--window-index",
                "2",
            ],
            &[11, 13],
        ),
        (&["--indices", "19,0,19"], &[19, 0, 19]),
    ] {
        let (indices, cells) = sheet(&[&[name], options].concat(), &out);
        assert_eq!(indices, expected, "{options:?}");
        let shown: Vec<u64> = cells.iter().map(|cell| u64::from(*cell) / 10).collect();
        assert_eq!(shown, expected, "{options:?}");
    }
    let late = video(&["frames", name, "--window", "0.5", "--window-index", "9"]);
    assert_eq!(late.status.code(), Some(65));
    assert_eq!(
        video(&["frames", name, "--indices", "20"]).status.code(),
        Some(65)
    );
}

#[test]
fn a_turned_video_is_shown_as_players_show_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("sheet.png");
    let path = shared::root().join("clips/decord_rot90.mov");
    let name = path.to_str().expect("a text");
    let size = |options: &[&str]| {
        let out = ["--out", out.to_str().expect("a text"), "--num-frames", "1"];
        let sampled = json(&video(&[&["frames", name], &out[..], options].concat()));
        let frame = &sampled["frames"][0];
        (frame["width"].as_u64(), frame["height"].as_u64())
    };
    assert_eq!(size(&[]), (Some(320), Some(568)));
    assert_eq!(size(&["--stored"]), (Some(568), Some(320)));
}

#[test]
fn the_sandbox_says_which_layers_hold() {
    let found = json(&video(&["sandbox"]));
    let names = |key: &str| {
        let list = found[key].as_array().expect("a list");
        let names = list
            .iter()
            .map(|name| name.as_str().expect("a name").to_owned());
        names.collect::<Vec<_>>()
    };
    let (held, missing) = (names("layers"), names("missing"));
    let all = frameshift::video::Layer::ALL
        .iter()
        .map(|layer| layer.name());
    for name in all {
        let times =
            [&held, &missing].map(|list| list.iter().filter(|other| *other == name).count());
        assert_eq!(times.iter().sum::<usize>(), 1, "{name}");
    }
    assert!(
        held.iter()
            .any(|name| name == "landlock" || name == "seccomp")
    );
}
