//! Folders and lists as their publishers lay them out.

use super::*;

fn write(root: &Path, files: &[(&str, &str)]) {
    for (name, text) in files {
        let path = root.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
}

fn summary(found: &Listing, root: &Path) -> Vec<(String, String, Split)> {
    found
        .examples
        .iter()
        .map(|example| {
            let path = example.path.strip_prefix(root).unwrap();
            (
                path.to_string_lossy().into_owned(),
                example.label.clone(),
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
    assert_eq!(found.missing, ["zzz_000000_000010"]);
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

#[test]
fn a_folder_without_labels_is_refused() {
    let root = tempfile::tempdir().unwrap();
    write(root.path(), &[("a.mp4", "")]);
    assert!(matches!(find(root.path()), Err(Error::NoExamples { .. })));
    write(root.path(), &[("train.json", "{}")]);
    assert!(matches!(find(root.path()), Err(Error::Annotation { .. })));
}
