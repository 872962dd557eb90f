//! Location of the shared test data.

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
