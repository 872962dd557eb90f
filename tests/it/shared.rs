//! Location of the shared test data, and what is below a folder.

use std::path::{Path, PathBuf};

#[allow(dead_code)]
/// Returns `$FRAMESHIFT_SHARED`, else `../shared`, else the repository's own copy, which is not accepted when `CI` is `true`.
pub(crate) fn root() -> PathBuf {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR"));
    if let Some(root) = std::env::var_os("FRAMESHIFT_SHARED") {
        let root = PathBuf::from(root);
        assert!(
            root.is_dir(),
            "FRAMESHIFT_SHARED is not a folder: {}",
            root.display()
        );
        return root;
    }
    let beside = repository.join("../shared");
    if beside.is_dir() {
        return beside;
    }
    assert!(
        std::env::var_os("CI").is_none_or(|ci| ci != "true"),
        "no shared test data: set FRAMESHIFT_SHARED or put it into {}",
        beside.display()
    );
    repository.join("tests/data")
}

/// Returns every file below a folder, but for what lies in a trash.
#[allow(dead_code)]
pub(crate) fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut folders = vec![folder.to_owned()];
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.ends_with(".trash") {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
            } else {
                found.push(path);
            }
        }
    }
    found
}
