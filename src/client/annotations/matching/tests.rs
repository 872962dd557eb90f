//! Rows whose own video is not there, while others have its name.

use crate::client::annotations::find;
use crate::client::annotations::tests::{HEADING, folder, note, summary};

/// The videos that the lists of a folder find, and those that they doubt.
fn found(files: &[(&str, &str)]) -> (Vec<String>, usize, usize) {
    let root = folder(files);
    let found = find(root.path()).unwrap();
    let examples = summary(&found, root.path());
    let examples = examples
        .into_iter()
        .map(|(path, label, _)| format!("{label}: {path}"));
    let doubtful = note(&found, "doubtful_video").len();
    let missing = note(&found, "missing_video").len();
    (examples.collect(), doubtful, missing)
}

#[test]
fn a_missing_video_is_not_replaced_by_that_of_another_split() {
    let train = format!("{HEADING}left,a,,,train\nright,b,,,train\n");
    let val = format!("{HEADING}left,b,,,val\nright,c,,,val\n");
    let files = [
        ("train.csv", &*train),
        ("val.csv", &*val),
        ("train/a.mp4", ""),
        ("train/b.mp4", ""),
        ("val/c.mp4", ""),
    ];
    let (examples, doubtful, _) = found(&files);
    let wanted = [
        "left: train/a.mp4",
        "right: train/b.mp4",
        "right: val/c.mp4",
    ];
    assert_eq!(
        (examples.as_slice(), doubtful),
        (&wanted.map(String::from)[..], 1)
    );
    // Without a folder of its own, a split may be a part of another one's.
    let (examples, doubtful, _) = found(&files[..4]);
    assert_eq!((examples.len(), doubtful), (3, 0));
}

#[test]
fn a_missing_video_is_not_replaced_by_that_of_another_label() {
    let list = format!("{HEADING}left,1,,,train\nright,1,,,train\nleft,2,,,train\n");
    let files = [
        ("train.csv", &*list),
        ("v/right/1.mp4", ""),
        ("v/left/2.mp4", ""),
    ];
    let (examples, doubtful, _) = found(&files);
    let wanted = ["right: v/right/1.mp4", "left: v/left/2.mp4"];
    assert_eq!(
        (examples.as_slice(), doubtful),
        (&wanted.map(String::from)[..], 1)
    );
}

#[test]
fn a_path_means_no_file_of_another_folder() {
    let list = "a/1.mp4 x\nb/1.mp4 y\nb/2.mp4 y\n";
    let files = [("train.txt", list), ("a/1.mp4", ""), ("b/2.mp4", "")];
    let (examples, _, missing) = found(&files);
    let wanted = ["x: a/1.mp4", "y: b/2.mp4"];
    assert_eq!(
        (examples.as_slice(), missing),
        (&wanted.map(String::from)[..], 1)
    );
    // All videos in one folder: names that differ are enough, equal ones are not.
    let files = [
        ("train.txt", "a/1.mp4 x\nb/2.mp4 y\nc/2.mp4 z\n"),
        ("v/1.mp4", ""),
        ("v/2.mp4", ""),
        ("v/3.mp4", ""),
    ];
    let root = folder(&files);
    let error = find(root.path()).map(|found| summary(&found, root.path()));
    assert!(
        error.is_err(),
        "no line is known by its whole path: {error:?}"
    );
    let files = [
        ("train.csv", "path,label\na/1.mp4,x\nb/2.mp4,y\nc/2.mp4,z\n"),
        ("v/1.mp4", ""),
        ("v/2.mp4", ""),
    ];
    let (examples, doubtful, _) = found(&files);
    assert_eq!(
        (examples.as_slice(), doubtful),
        (&["x: v/1.mp4".to_owned()][..], 2)
    );
}

#[test]
fn paths_of_other_machines_find_their_ends() {
    let list =
        "/data/old/train/left/1.mp4 0\nC:\\data\\train\\right\\1.mp4 1\n./train/right/2.MP4 1\n";
    let (examples, doubtful, missing) = found(&[
        ("train.txt", list),
        ("train/left/1.mp4", ""),
        ("train/right/1.mp4", ""),
        ("train/right/2.mp4", ""),
    ]);
    let wanted = [
        "0: train/left/1.mp4",
        "1: train/right/1.mp4",
        "1: train/right/2.mp4",
    ];
    assert_eq!(
        (examples.as_slice(), doubtful, missing),
        (&wanted.map(String::from)[..], 0, 0)
    );
}

#[test]
fn a_converted_video_is_found_and_an_uncut_one_only_for_one_of_its_parts() {
    let (examples, doubtful, _) = found(&[
        ("train.csv", "path,label\nv/a.avi,x\nv/b.avi,y\nv/b.mp4,z\n"),
        ("v/a.mp4", ""),
        ("v/b.mp4", ""),
    ]);
    let wanted = ["x: v/a.mp4", "z: v/b.mp4"];
    assert_eq!(
        (examples.as_slice(), doubtful),
        (&wanted.map(String::from)[..], 1)
    );
    let list = format!("{HEADING}left,a,0,10,train\nright,a,20,30,train\nup,b,0,10,train\n");
    let (examples, doubtful, _) = found(&[("train.csv", &list), ("v/a.mp4", ""), ("v/b.mp4", "")]);
    assert_eq!(
        (examples.as_slice(), doubtful),
        (&["up: v/b.mp4".to_owned()][..], 2)
    );
}

#[test]
fn names_are_the_same_in_either_form_of_unicode() {
    let list = "path,label\ncafe\u{301}/\u{e9}.mp4,x\ncaf\u{e9}/e\u{301}2.mp4,y\n";
    let (examples, _, missing) = found(&[
        ("train.csv", list),
        ("caf\u{e9}/e\u{301}.mp4", ""),
        ("caf\u{e9}/\u{e9}2.mp4", ""),
    ]);
    assert_eq!((examples.len(), missing), (2, 0));
}
