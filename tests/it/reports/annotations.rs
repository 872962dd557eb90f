//! Folders and annotation lists as people have them.

use std::collections::BTreeMap;

use frameshift::client::annotations::{Listing, find};
use frameshift::spec::Split;

use super::command::{ask, input, run, word};
use crate::server::TestServer;

/// Examples of each split and label.
fn counts(found: &Listing) -> BTreeMap<(String, String), usize> {
    let mut counts = BTreeMap::new();
    for example in &found.examples {
        let split = format!("{:?}", example.split).to_lowercase();
        *counts
            .entry((split, example.labels.text().to_owned()))
            .or_default() += 1;
    }
    counts
}

fn expect(found: &Listing, expected: &[(&str, &str, usize)]) {
    let expected: BTreeMap<_, _> = expected
        .iter()
        .map(|(split, label, count)| (((*split).to_owned(), (*label).to_owned()), *count))
        .collect();
    assert_eq!(counts(found), expected, "{:#?}", found.notes);
}

fn notes(found: &Listing) -> String {
    let notes = found.notes.iter().map(ToString::to_string);
    notes.collect::<Vec<_>>().join("\n")
}

fn refusal(case: &str) -> String {
    let error = find(&input(case)).unwrap_err();
    assert_eq!(error.exit_code(), 65, "{error}");
    error.to_string()
}

#[test]
fn the_official_release_of_something_something_is_read_with_the_answers_of_its_test_list() {
    let found = find(&input("annotations-1/data")).unwrap();
    let (left, right) = (
        "Pushing something from right to left",
        "Pushing something from left to right",
    );
    expect(
        &found,
        &[
            ("train", left, 2),
            ("train", right, 2),
            ("validation", left, 1),
            ("validation", right, 1),
            ("test", left, 1),
            ("test", right, 1),
        ],
    );
}

#[test]
fn a_row_means_the_file_of_its_own_split() {
    let root = input("annotations-2/data");
    let found = find(&root).unwrap();
    expect(
        &found,
        &[
            ("train", "left", 1),
            ("train", "right", 1),
            ("validation", "left", 1),
            ("validation", "right", 1),
        ],
    );
    for example in &found.examples {
        let folder = match example.split {
            Split::Train => "train",
            Split::Validation => "val",
            Split::Test => "test",
        };
        assert!(example.path.starts_with(root.join(folder)), "{example:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_that_is_not_in_the_data_set_is_counted_and_named() {
    let server = TestServer::start().await;
    let root = input("annotations-3/data");
    let create = ["dataset", "create", "moves", "--from", word(&root)];
    let text = ask(&server, &create).await.ends(0);
    for part in [
        "dev (2 videos)",
        "train/swim/part1/a.mp4",
        "train/swim/noending",
        "train/swim",
    ] {
        assert!(text.err.contains(part), "{part}: {}", text.err);
    }
    let mut again = create.to_vec();
    again.push("--json");
    let json = ask(&server, &again).await.ends(0).json();
    let result = &json[0];
    // The four endings of cameras and phones are videos, by their content.
    assert_eq!(result["examples"], 4, "{result:#}");
    assert_eq!(result["already_there"], 4, "{result:#}");
    let items = |kind: &str| {
        let notes = result["notes"].as_array().unwrap();
        let note = notes.iter().find(|note| note["kind"] == kind);
        note.unwrap_or_else(|| panic!("{kind}: {result:#}"))["items"].clone()
    };
    assert_eq!(
        items("unknown_split"),
        serde_json::json!(["dev (2 videos)"])
    );
    assert_eq!(
        items("unknown_ending"),
        serde_json::json!(["train/swim/noending"])
    );
    assert_eq!(
        items("too_deep_video"),
        serde_json::json!(["train/swim/part1/a.mp4"])
    );
    assert_eq!(items("empty_label"), serde_json::json!(["train/swim"]));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hidden_companions_of_a_copy_are_no_refused_videos() {
    let server = TestServer::start().await;
    let root = input("annotations-4/data");
    let create = [
        "dataset",
        "create",
        "sides",
        "--from",
        word(&root),
        "--json",
    ];
    let result = ask(&server, &create).await.ends(0).json();
    assert_eq!(result[0]["examples"], 2);
    assert_eq!(result[0]["refused"], serde_json::json!([]));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn labels_that_look_the_same_are_one_class() {
    let root = input("annotations-5/data");
    expect(
        &find(&root).unwrap(),
        &[
            ("train", "café", 2),
            ("train", "naïve", 1),
            ("train", "walk", 2),
            ("validation", "naïve", 1),
        ],
    );
    let server = TestServer::start().await;
    let create = [
        "dataset",
        "create",
        "looks",
        "--from",
        word(&root),
        "--json",
    ];
    let result = ask(&server, &create).await.ends(0).json();
    assert_eq!(result[0]["labels"], 3, "{:#}", result[0]);
    server.stop().await;
}

#[test]
fn a_message_about_a_list_names_file_line_and_cause() {
    for (case, wanted) in [
        (
            "annotations-6/latin1",
            "train.csv, line 2: not UTF-8 (byte 0xe9 at column 3); save it as UTF-8",
        ),
        (
            "annotations-6/comma",
            "train.csv, line 3: 6 fields where the heading has 5; put the label in quotes",
        ),
        (
            "annotations-6/clock",
            "train.csv, line 2: time_start \"00:00:10\" is not a number of seconds",
        ),
        (
            "annotations-10/splits",
            "train.csv, line 4: split \"holdout\"; expected train, val or test",
        ),
    ] {
        let message = refusal(case);
        assert!(message.ends_with(wanted), "{case}: {message}");
    }
    for case in ["annotations-6/bom", "annotations-6/number"] {
        let found = find(&input(case)).unwrap();
        let labels = [
            ("train", "Dropping something", 1),
            ("train", "Lifting something", 1),
        ];
        expect(&found, &labels);
    }
    let paths = find(&input("annotations-6/paths")).unwrap();
    expect(&paths, &[("train", "0", 1), ("train", "1", 1)]);
}

#[test]
fn ids_may_be_file_names_paths_or_have_times_without_zeros() {
    for case in ["annotations-10/unpadded", "annotations-10/with_ending"] {
        let found = find(&input(case)).unwrap();
        expect(&found, &[("train", "left", 1), ("train", "right", 1)]);
        assert_eq!(notes(&found), "", "{case}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn equal_bytes_in_two_splits_are_warned_of() {
    let server = TestServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let video = input("cli-1/a.mp4");
    for place in ["train/left", "val/left"] {
        let place = folder.path().join(place);
        std::fs::create_dir_all(&place).unwrap();
        std::fs::copy(&video, place.join("a.mp4")).unwrap();
    }
    let create = ["dataset", "create", "leak", "--from", word(folder.path())];
    let ran = ask(&server, &create).await.ends(0);
    assert!(
        ran.err.contains("warning: 1 videos with equal bytes"),
        "{ran:?}"
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_under_labels_that_do_not_exclude_one_another_are_one_example() {
    let server = TestServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let video = input("cli-1/a.mp4");
    for place in ["train/left", "train/up", "val/left"] {
        let place = folder.path().join(place);
        std::fs::create_dir_all(&place).unwrap();
        std::fs::copy(&video, place.join("a.mp4")).unwrap();
    }
    let from = word(folder.path());
    let create = [
        "dataset",
        "create",
        "moves",
        "--multi-label",
        "--from",
        from,
    ];
    ask(&server, &create).await.ends(0);
    let again = ask(&server, &create).await.ends(0);
    assert!(
        again.err.contains("2 examples were there already"),
        "{again:?}"
    );
    let listed = ask(&server, &["dataset", "examples", "moves", "--json"]).await;
    let mut labels: Vec<(String, serde_json::Value)> = listed
        .ends(0)
        .json()
        .into_iter()
        .map(|own| (own["split"].to_string(), own["labels"].clone()))
        .collect();
    labels.sort_by(|one, other| one.0.cmp(&other.0));
    let expected = [
        ("\"train\"", "[\"left\",\"up\"]"),
        ("\"validation\"", "[\"left\"]"),
    ];
    let shown: Vec<(String, String)> = (labels.iter())
        .map(|(split, labels)| (split.clone(), labels.to_string()))
        .collect();
    let shown = shown.iter().map(|own| (own.0.as_str(), own.1.as_str()));
    assert!(shown.eq(expected), "{labels:?}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_is_refused_says_all_that_is_known_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let rows: String = (0..30).map(|i| format!("left,x{i},0,10,train\n")).collect();
    let list = format!("label,youtube_id,time_start,time_end,split\n{rows}");
    std::fs::write(folder.path().join("train.csv"), list).unwrap();
    std::fs::copy(input("cli-1/a.mp4"), folder.path().join("other.mp4")).unwrap();
    let create = ["dataset", "create", "x", "--from", word(folder.path())];
    let ran = run(&create).await.ends(65);
    assert!(ran.err.contains("and 20 more (--json has all)"), "{ran:?}");
    let ran = run(&[&create[..], &["--json"]].concat()).await.ends(65);
    let error: serde_json::Value = serde_json::from_str(&ran.err).unwrap();
    let notes = error["error"]["notes"].as_array().unwrap();
    let missing = notes.iter().find(|note| note["kind"] == "missing_video");
    assert_eq!(missing.unwrap()["items"].as_array().unwrap().len(), 30);
}
