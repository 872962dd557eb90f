//! Folders and lists as their publishers lay them out.

use std::fs;

use super::*;

pub(super) fn write(root: &Path, files: &[(&str, &str)]) {
    for (name, text) in files {
        let path = root.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
}

pub(super) fn summary(found: &Listing, root: &Path) -> Vec<(String, String, Split)> {
    found
        .examples
        .iter()
        .map(|example| {
            let path = example.path.strip_prefix(root).unwrap();
            (
                path.to_string_lossy().into_owned(),
                example.labels.text().to_owned(),
                example.split,
            )
        })
        .collect()
}

#[test]
fn folders_name_split_and_label() {
    let root = tempfile::tempdir().unwrap();
    write(
        root.path(),
        &[
            ("train/jump/b.mp4", ""),
            ("train/jump/a.MKV", ""),
            ("train/jump/notes.txt", ""),
            ("val/run/c.avi", ""),
            ("other/run/d.avi", ""),
        ],
    );
    let found = find(root.path()).unwrap();
    assert_eq!(
        summary(&found, root.path()),
        [
            ("train/jump/a.MKV".into(), "jump".into(), Split::Train),
            ("train/jump/b.mp4".into(), "jump".into(), Split::Train),
            ("val/run/c.avi".into(), "run".into(), Split::Validation),
        ]
    );
}

#[test]
fn kinetics_lists_name_files_by_id_and_seconds() {
    let root = tempfile::tempdir().unwrap();
    write(
        root.path(),
        &[
            (
                "kinetics_train.csv",
                "label,youtube_id,time_start,time_end,split\n\
                 \"running, fast\",abc,3,13,train\nclapping,-d_e,0,10,train\nlost,zzz,0,10,train\n",
            ),
            (
                "validate.csv",
                "label,youtube_id,time_start,time_end,split\nclapping,plain,1,11,val\n",
            ),
            ("videos/abc_000003_000013.mp4", ""),
            ("videos/x/-d_e_000000_000010.mp4", ""),
            ("videos/plain.mp4", ""),
        ],
    );
    let found = find(root.path()).unwrap();
    assert_eq!(
        note(&found, "missing_video"),
        ["zzz.* or zzz_000000_000010.* or zzz_0_10.*"]
    );
    assert_eq!(
        summary(&found, root.path()),
        [
            (
                "videos/abc_000003_000013.mp4".into(),
                "running, fast".into(),
                Split::Train
            ),
            (
                "videos/x/-d_e_000000_000010.mp4".into(),
                "clapping".into(),
                Split::Train
            ),
            (
                "videos/plain.mp4".into(),
                "clapping".into(),
                Split::Validation
            ),
        ]
    );
}

#[test]
fn something_something_labels_are_templates_without_brackets() {
    let root = tempfile::tempdir().unwrap();
    write(
        root.path(),
        &[
            (
                "something-something-v2-train.json",
                r#"[{"id":"78687","label":"holding potato next to vicks","template":"Holding [something] next to [something]","placeholders":["potato","vicks"]}]"#,
            ),
            ("something-something-v2-test.json", r#"[{"id":"1420"}]"#),
            ("labels.json", r#"{"Holding something":"0"}"#),
            ("20bn/78687.webm", ""),
        ],
    );
    let found = find(root.path()).unwrap();
    assert_eq!(
        summary(&found, root.path()),
        [(
            "20bn/78687.webm".into(),
            "Holding something next to something".into(),
            Split::Train
        )]
    );
}

/// The items of a note; none when there is no such note.
pub(super) fn note<'a>(found: &'a Listing, kind: &str) -> &'a [String] {
    found
        .notes
        .iter()
        .find(|note| note.kind == kind)
        .map_or(&[], |note| &note.items)
}

pub(super) fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    write(root.path(), files);
    root
}

/// The message with which a folder is refused, without the folder's own path.
pub(super) fn refusal(files: &[(&str, &str)]) -> String {
    let root = folder(files);
    let error = find(root.path()).unwrap_err();
    assert_eq!(error.exit_code(), 65);
    error
        .to_string()
        .replace(&format!("{}/", root.path().display()), "")
}

pub(super) const HEADING: &str = "label,youtube_id,time_start,time_end,split\n";

#[test]
fn a_folder_without_labels_is_refused_with_what_was_found() {
    let message = refusal(&[("a.mp4", "")]);
    assert!(
        message.contains("1 videos outside <split>/<label>/: a.mp4"),
        "{message}"
    );
    let message = refusal(&[("a.mp4", ""), ("train.json", "{}")]);
    assert!(
        message.contains("train.json (no list of objects)"),
        "{message}"
    );
}

#[test]
fn the_release_of_something_something_is_read_with_the_answers_of_its_test_list() {
    let root = folder(&[
        ("labels.json", r#"{"Pushing something": "0"}"#),
        (
            "train.json",
            r#"[{"id": "101", "template": "Pushing [something]"}]"#,
        ),
        ("test.json", r#"[{"id": "104"}, {"id": "105"}]"#),
        ("test-answers.csv", "104;Pushing something\n"),
        ("train_log.txt", "epoch one\nloss 3\n"),
        ("videos/101.webm", ""),
        ("videos/104.webm", ""),
    ]);
    let found = find(root.path()).unwrap();
    let examples: Vec<_> = found
        .examples
        .iter()
        .map(|e| (e.labels.text(), e.split))
        .collect();
    let label = "Pushing something";
    assert_eq!(examples, [(label, Split::Test), (label, Split::Train)]);
    assert_eq!(note(&found, "unlabelled_entry"), ["105"]);
    assert_eq!(note(&found, "not_a_list").len(), 1);
}

#[test]
fn a_row_means_the_file_of_its_own_split() {
    let train = format!("{HEADING}left,clip1,,,train\nright,clip2,,,train\n");
    let val = format!("{HEADING}right,clip1,,,val\n");
    let root = folder(&[
        ("train.csv", &train),
        ("val.csv", &val),
        ("train/clip1.mp4", ""),
        ("train/clip2.mp4", ""),
        ("val/clip1.mp4", ""),
        ("val/clip2.mp4", ""),
    ]);
    let found = find(root.path()).unwrap();
    let paths: Vec<String> = summary(&found, root.path())
        .into_iter()
        .map(|(path, ..)| path)
        .collect();
    assert_eq!(
        paths,
        ["train/clip1.mp4", "train/clip2.mp4", "val/clip1.mp4"]
    );
    assert_eq!(note(&found, "unlisted_video"), ["val/clip2.mp4"]);
}

#[test]
fn a_row_that_may_mean_two_files_is_not_guessed() {
    let list = format!("{HEADING}left,x,,,train\n");
    for files in [["a/x.mp4", "b/x.mp4"], ["v/x.mp4", "v/x.webm"]] {
        let message = refusal(&[("train.csv", &list), (files[0], ""), (files[1], "")]);
        let wanted = format!(
            "train.csv, line 2: x may be any of {}, {}",
            files[0], files[1]
        );
        assert_eq!(message, wanted);
    }
    // The label's folder decides.
    let root = folder(&[
        ("train.csv", &list),
        ("left/x.mp4", ""),
        ("right/x.mp4", ""),
    ]);
    assert_eq!(
        find(root.path()).unwrap().examples[0].path,
        root.path().join("left/x.mp4")
    );
}

#[test]
fn everything_that_is_left_out_is_noted() {
    let root = folder(&[
        ("train/walk/a.mp4", ""),
        ("train/run/a.3gp", ""),
        ("train/jump/a.m2ts", ""),
        ("train/jump/b.MTS", ""),
        ("train/swim/part1/a.mp4", ""),
        ("train/swim/noending", ""),
        ("train/walk/._a.mp4", ""),
        ("train/walk/@eaDir/a.mp4", ""),
        ("train/walk/a.srt", ""),
        ("dev/walk/a.mp4", ""),
        (".Trashes/train/x/a.mp4", ""),
        ("top.mp4", ""),
    ]);
    let found = find(root.path()).unwrap();
    assert_eq!(found.examples.len(), 4);
    assert_eq!(note(&found, "unknown_ending"), ["train/swim/noending"]);
    assert_eq!(note(&found, "too_deep_video"), ["train/swim/part1/a.mp4"]);
    assert_eq!(note(&found, "unknown_split"), ["dev (1 video)"]);
    assert_eq!(note(&found, "empty_label"), ["train/swim"]);
    assert_eq!(note(&found, "unlabelled_video"), ["top.mp4"]);
    assert_eq!(note(&found, "companion"), ["train/walk/a.srt"]);
    assert_eq!(note(&found, "hidden").len(), 3);
    let text = found
        .notes
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("\n");
    assert!(
        text.contains("1 files left out for their endings (none): train/swim/noending"),
        "{text}"
    );
    assert!(!text.contains(".Trashes"), "{text}");
}

#[test]
fn labels_are_read_in_one_form() {
    let root = folder(&[
        ("train/cafe\u{301}/a.mp4", ""),
        ("train/café/b.mp4", ""),
        ("train/walk /b.mp4", ""),
        ("train/walk/a.mp4", ""),
        ("val/Walk/a.mp4", ""),
    ]);
    let found = find(root.path()).unwrap();
    let labels: std::collections::BTreeSet<&str> =
        found.examples.iter().map(|e| e.labels.text()).collect();
    assert_eq!(
        labels.into_iter().collect::<Vec<_>>(),
        ["Walk", "café", "walk"]
    );
    assert_eq!(note(&found, "similar_labels"), [r#"["walk", "Walk"]"#]);
    let message = refusal(&[("train/\u{200b}/a.mp4", "")]);
    assert!(
        message.starts_with("the folder train/\u{200b}: "),
        "{message}"
    );
}

#[test]
fn a_faulty_list_is_refused_with_line_and_cause() {
    for (text, wanted) in [
        (
            "moving, to the right,x2,,,train\n",
            "line 2: 6 fields where the heading has 5; put the label in quotes",
        ),
        (
            "left,x1,00:00:10,00:00:20,train\n",
            r#"line 2: time_start "00:00:10" is not a number of seconds"#,
        ),
        (
            "left,x1,,,holdout\n",
            r#"line 2: split "holdout"; expected train, val or test"#,
        ),
        ("left,,,,train\n", "line 2: no video is named"),
    ] {
        let list = format!("{HEADING}{text}");
        let message = refusal(&[("train.csv", &list), ("v/x1.mp4", ""), ("v/x2.mp4", "")]);
        assert_eq!(message, format!("train.csv, {wanted}"));
    }
    let root = folder(&[("v/x1.mp4", "")]);
    let list = [HEADING.as_bytes(), b"th\xe9 vert,x1,,,train\n"].concat();
    fs::write(root.path().join("train.csv"), list).unwrap();
    let message = find(root.path()).unwrap_err().to_string();
    let wanted = "train.csv, line 2: not UTF-8 (byte 0xe9 at column 3); save it as UTF-8";
    assert!(message.ends_with(wanted), "{message}");
}

#[test]
fn a_faulty_list_does_not_stop_the_others() {
    let good = format!("{HEADING}left,x1,,,train\n");
    let bad = format!("{HEADING}left,x1,soon,,val\n");
    let root = folder(&[("train.csv", &good), ("val.csv", &bad), ("v/x1.mp4", "")]);
    let found = find(root.path()).unwrap();
    assert_eq!(found.examples.len(), 1);
    assert_eq!(found.broken.len(), 1);
}

#[test]
fn lists_come_in_several_shapes() {
    let mark = "\u{feff}[{\"id\":1,\"template\":\"Lifting [something]\"}]";
    let semicolons = "path;label;split\nv/1.mp4;Lifting something;train\n";
    let lines = "v/1.mp4 Lifting\n";
    let frames = "v/1.mp4 300 Lifting\n";
    let unpadded = format!("{HEADING}Lifting,1,10,20,train\n");
    for (name, list, video) in [
        ("train.json", mark, "v/1.mp4"),
        ("train.csv", semicolons, "v/1.mp4"),
        ("train.csv", lines, "v/1.mp4"),
        ("train_list_videos.txt", frames, "v/1.mp4"),
        ("train.csv", &unpadded, "v/1_10_20.mp4"),
    ] {
        let root = folder(&[(name, list), (video, "")]);
        let found = find(root.path()).unwrap();
        assert_eq!(found.examples.len(), 1, "{list}");
        assert!(found.examples[0].labels.text().starts_with("Lifting"));
    }
}

#[test]
fn a_list_whose_videos_are_called_otherwise_says_what_it_looked_for() {
    let list = format!("{HEADING}left,x1,10,20,train\n");
    let message = refusal(&[("train.csv", &list), ("v/y_10_20.mp4", "")]);
    assert!(
        message.contains("1 rows of train.csv, which are all of them, name no video of the folder (it has 1 video, for example v/y_10_20.mp4)"),
        "{message}"
    );
    assert!(message.contains("x1_000010_000020.*"), "{message}");
    assert!(!message.contains("expected <split>"), "{message}");
}

#[test]
fn official_splits_of_ucf101_and_hmdb51_are_read() {
    let ucf = folder(&[
        ("ucfTrainTestlist/trainlist01.txt", "Archery/v_1.avi 3\n"),
        ("ucfTrainTestlist/testlist01.txt", "Archery/v_2.avi\n"),
        ("ucfTrainTestlist/trainlist02.txt", "Archery/v_2.avi 3\n"),
        ("ucfTrainTestlist/classInd.txt", "3 Archery\n"),
        ("UCF-101/Archery/v_1.avi", ""),
        ("UCF-101/Archery/v_2.avi", ""),
    ]);
    let found = find(ucf.path()).unwrap();
    assert_eq!(
        summary(&found, ucf.path()),
        [
            (
                "UCF-101/Archery/v_2.avi".into(),
                "Archery".into(),
                Split::Test
            ),
            (
                "UCF-101/Archery/v_1.avi".into(),
                "Archery".into(),
                Split::Train
            ),
        ]
    );
    assert_eq!(
        note(&found, "other_split_number"),
        ["ucfTrainTestlist/trainlist02.txt"]
    );
    let hmdb = folder(&[
        (
            "splits/brush_hair_test_split1.txt",
            "a.avi 1 \nb.avi 2 \nc.avi 0 \n",
        ),
        ("splits/brush_hair_test_split2.txt", "a.avi 2 \n"),
        ("brush_hair/a.avi", ""),
        ("brush_hair/b.avi", ""),
        ("brush_hair/c.avi", ""),
    ]);
    let found = find(hmdb.path()).unwrap();
    assert_eq!(
        summary(&found, hmdb.path()),
        [
            ("brush_hair/a.avi".into(), "brush_hair".into(), Split::Train),
            ("brush_hair/b.avi".into(), "brush_hair".into(), Split::Test),
        ]
    );
    assert_eq!(note(&found, "unused_entry"), ["c.avi"]);
    let message = refusal(&[
        ("brush_hair_test_split1.txt", "a.avi 7\n"),
        ("brush_hair/a.avi", ""),
    ]);
    assert_eq!(
        message,
        "brush_hair_test_split1.txt, line 1: expected a video and 0, 1 (train) or 2 (test)"
    );
}

#[test]
fn rows_of_labels_that_do_not_exclude_one_another_add_up() {
    let list = "path,label,split\nv/a.mp4,run; jump,train\nv/a.mp4,fall|run,train\nv/b.mp4,,train\nv/c.mp4,run,val\nv/c.mp4,run,test\n";
    let root = folder(&[
        ("all.csv", list),
        ("v/a.mp4", ""),
        ("v/b.mp4", ""),
        ("v/c.mp4", ""),
    ]);
    let found = find_of(root.path(), LabelKind::Multi).unwrap();
    let labels: Vec<(Vec<&str>, Split)> = found
        .examples
        .iter()
        .map(|own| (own.labels.iter().collect(), own.split))
        .collect();
    assert_eq!(
        labels,
        [
            (vec!["fall", "jump", "run"], Split::Train),
            (vec![], Split::Train),
            (vec!["run"], Split::Validation),
            (vec!["run"], Split::Test),
        ]
    );
    assert_eq!(note(&found, "two_uses"), ["v/c.mp4"], "two splits");
    // Of labels that exclude one another a row has one, whatever is in it.
    let single = find(root.path()).unwrap();
    assert_eq!(single.examples[0].labels.only(), Some("run; jump"));
    assert_eq!(note(&single, "two_uses"), ["v/a.mp4", "v/c.mp4"]);
}
