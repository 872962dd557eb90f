//! Lists as people and their programs write them.

use std::fs;

use crate::client::annotations::tests::{folder, note, refusal, summary};
use crate::client::annotations::{Listing, find};
use crate::spec::Split;

/// The labels of a folder with the videos `v/my clip.mp4` and `v/b.mp4`, in order.
fn labels(name: &str, list: &str) -> Vec<String> {
    let root = folder(&[(name, list), ("v/my clip.mp4", ""), ("v/b.mp4", "")]);
    let found = find(root.path()).unwrap_or_else(|error| panic!("{list:?}: {error}"));
    let rows = summary(&found, root.path());
    rows.into_iter().map(|(_, label, _)| label).collect()
}

#[test]
fn names_and_labels_may_have_spaces_commas_and_quotes() {
    for (name, list) in [
        (
            "train.txt",
            "v/my clip.mp4 pull ups\nv/b.mp4 moving, fast\n",
        ),
        (
            "train.txt",
            "v/my clip.mp4\tpull ups\r\nv/b.mp4\tmoving, fast\r\n",
        ),
        (
            "train.txt",
            "v/my clip.mp4 300 pull ups\nv/b.mp4 20 moving, fast\n",
        ),
        (
            "train.csv",
            "v/my clip.mp4,pull ups\r\nv/b.mp4,\"moving, fast\"\r\n\r\n",
        ),
        ("train.csv", "my clip;pull ups\nb;moving, fast\n"),
        (
            "train.csv",
            "\u{feff}\"path\",\"label\"\r\n\"v/my clip.mp4\",\" pull ups \"\r\nv/b.mp4,\"moving, fast\"\r\n",
        ),
        (
            "Train List.tsv",
            "label\tfilename\npull ups\tmy clip.mp4\nmoving, fast\tb.mp4\n",
        ),
        (
            "train.csv",
            "id,path,label\n0,v/my clip.mp4,pull ups\n1,v/b.mp4,\"moving, fast\"\n",
        ),
        (
            "train.csv",
            "label,path\rpull ups,v/my clip.mp4\r\"moving, fast\",v/b.mp4\r",
        ),
        (
            "train.json",
            r#"[{"path":"v/my clip.mp4","label":"pull ups"},{"path":"v/b.mp4","label":"moving, fast"}]"#,
        ),
    ] {
        assert_eq!(labels(name, list), ["pull ups", "moving, fast"], "{list:?}");
    }
}

#[test]
fn a_number_before_a_label_is_that_of_frames_in_every_line_or_in_none() {
    let list = "v/my clip.mp4 3 pointers\nv/b.mp4 dunk\n";
    assert_eq!(labels("train.txt", list), ["3 pointers", "dunk"]);
    for (line, wanted) in [
        (
            "v/b.mp4 0 300 5",
            "train.txt, line 1: the labels 300 5; a video has one label",
        ),
        (
            "v/b.mp4,moving, fast",
            "train.txt, line 1: 2 fields after the path; put the label in quotes",
        ),
        (
            "v/b.mp4 x\nalone",
            "train.txt, line 2: expected a path and a label",
        ),
    ] {
        assert_eq!(refusal(&[("train.txt", line), ("v/b.mp4", "")]), wanted);
    }
}

fn splits(found: &Listing) -> Vec<Split> {
    found.examples.iter().map(|example| example.split).collect()
}

#[test]
fn a_table_with_a_column_for_the_split_is_a_list_whatever_its_name() {
    let table = "file_name,label,split\na.mp4,x,train\nb.mp4,y,VALID\nc.mp4,x,test\n";
    let videos = [("v/a.mp4", ""), ("v/b.mp4", ""), ("v/c.mp4", "")];
    let root = folder(&[&[("annotations.csv", table)][..], &videos].concat());
    let found = find(root.path()).unwrap();
    assert_eq!(
        splits(&found),
        [Split::Train, Split::Validation, Split::Test]
    );
    let wanted = "annotations.csv, line 2: no split; expected train, val or test";
    let empty = "file_name,label,split\na.mp4,x,\n";
    assert_eq!(
        refusal(&[("annotations.csv", empty), ("v/a.mp4", "")]),
        wanted
    );
    // A table without splits is named, and the folders say what they say.
    let root = folder(&[("classes.csv", "id,label\n0,x\n"), ("train/x/a.mp4", "")]);
    let found = find(root.path()).unwrap();
    assert_eq!(splits(&found), [Split::Train]);
    assert_eq!(note(&found, "not_a_list").len(), 1, "{:?}", found.notes);
}

#[test]
fn the_metadata_of_a_split_lie_in_its_folder() {
    let root = folder(&[
        ("train/metadata.csv", "file_name,label\na.mp4,x\n"),
        ("test/metadata.csv", "file_name,label\na.mp4,y\n"),
        ("train/a.mp4", ""),
        ("test/a.mp4", ""),
    ]);
    let found = find(root.path()).unwrap();
    let rows = summary(&found, root.path());
    assert_eq!(
        rows,
        [
            ("test/a.mp4".into(), "y".into(), Split::Test),
            ("train/a.mp4".into(), "x".into(), Split::Train),
        ]
    );
}

#[test]
fn lists_that_are_none_are_named_and_stop_nothing() {
    let good = "path,label\nv/b.mp4,x\n";
    for (name, text) in [
        ("test-answers.csv", "nothing of the kind\n"),
        (
            "test.csv",
            "youtube_id,time_start,time_end,split\nb,0,10,test\n",
        ),
        ("train_val.txt", "v/b.mp4 x\n"),
        ("val_log.txt", "loss 3\nloss 2\n"),
        ("test.json", r#"{"b": 1}"#),
        ("test.txt", "b.mp4\n"),
    ] {
        let root = folder(&[("train.csv", good), (name, text), ("v/b.mp4", "")]);
        let found = find(root.path()).unwrap();
        assert_eq!(splits(&found), [Split::Train], "{name}: {:?}", found.notes);
        assert!(found.broken.is_empty(), "{name}: {:?}", found.broken);
        let named = found
            .notes
            .iter()
            .any(|note| note.items.iter().any(|item| item.starts_with(name)));
        assert!(named, "{name}: {:?}", found.notes);
    }
}

#[test]
fn emptied_rows_are_none_and_rows_without_a_label_are_noted() {
    let list = "path,label\nv/b.mp4,x\n,\n  ,\nv/c.mp4,\n";
    let root = folder(&[("train.csv", list), ("v/b.mp4", ""), ("v/c.mp4", "")]);
    let found = find(root.path()).unwrap();
    assert_eq!(found.examples.len(), 1);
    assert_eq!(note(&found, "unlabelled_entry"), ["v/c.mp4"]);
    assert_eq!(note(&found, "unlisted_video"), ["v/c.mp4"]);
}

#[test]
fn a_list_in_utf_16_is_read() {
    let root = folder(&[("v/b.mp4", "")]);
    let text = "path,label\r\nv/b.mp4,caf\u{e9}\r\n";
    for order in [u16::to_le_bytes, u16::to_be_bytes] {
        let bytes: Vec<u8> = "\u{feff}"
            .encode_utf16()
            .chain(text.encode_utf16())
            .flat_map(order)
            .collect();
        fs::write(root.path().join("train.csv"), bytes).unwrap();
        let found = find(root.path()).unwrap();
        assert_eq!(found.examples[0].labels.text(), "caf\u{e9}");
    }
}

#[test]
fn a_message_about_json_names_line_and_field() {
    for (list, wanted) in [
        (
            "[{\"id\": \"b\", \"template\": \"x\"},\n{\"id\": [1], \"template\": \"x\"}]",
            "train.json, line 2: field `id`: expected a text or a number, got [1]",
        ),
        (
            "[{\"id\": \"b\", \"template\": \"x\"},\n\n{\"template\": \"x\"}]",
            "train.json, line 3: missing field `id`",
        ),
        (
            "[{\"id\": \"b\", \"template\": \"x\"},\n7]",
            "train.json, line 1: expected an object, got 7",
        ),
        (
            "[{\"id\": \"b\", \"label\": \"x\", \"split\": \"holdout\"}]",
            "train.json, line 1: split \"holdout\"; expected train, val or test",
        ),
    ] {
        assert_eq!(refusal(&[("train.json", list), ("v/b.mp4", "")]), wanted);
    }
}
