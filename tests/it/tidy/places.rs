//! Files that have a place in the program, and steps that are taken in one file alone.

use super::*;

/// A file that no other one names is not compiled, and its tests never run.
#[test]
fn every_file_is_a_module() {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let files: Vec<File> = sources()
        .into_iter()
        .chain(below(&tests, "tests"))
        .collect();
    for file in &files {
        let Some((parent, name)) = file.name.rsplit_once('/') else {
            continue;
        };
        if name == "main" {
            continue;
        }
        let is_parent = |own: &&File| own.name == parent || own.name == format!("{parent}/main");
        let Some(parent) = files.iter().find(is_parent) else {
            continue;
        };
        assert!(
            parent.text.contains(&format!("mod {name};")),
            "{}: {} does not name it",
            file.name,
            parent.name
        );
    }
}

/// A listing that made its tokens by itself could forget to seal them.
#[test]
fn page_tokens_become_text_in_one_place() {
    for file in sources() {
        if !file.name.starts_with("rpc/") || file.name == "rpc/listing" || is_test(&file.name) {
            continue;
        }
        for line in code(&file.text) {
            for word in [".seal(", "next.token()", "PageRequest"] {
                assert!(!line.contains(word), "{}: {}", file.name, line.trim());
            }
        }
    }
}
