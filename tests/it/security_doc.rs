//! The threat model against the tests: every test that it names exists.

use std::fs;
use std::path::{Path, PathBuf};

/// Every source file of the project with its module path, in which `tests` is the unit tests' part.
fn sources(folder: &Path, found: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path: PathBuf = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|end| end == "rs") {
            let name = path.with_extension("").to_string_lossy().replace('/', "::");
            found.push((name, fs::read_to_string(&path).unwrap()));
        }
    }
}

/// Whether a file has a test of a path's last name, and is or holds the module of the name before.
fn has(file: &(String, String), path: &str) -> bool {
    let mut names: Vec<&str> = path.split("::").collect();
    let Some(test) = names.pop() else {
        return false;
    };
    if !file.1.contains(&format!("fn {test}(")) {
        return false;
    }
    // Unit tests are a module at the end of their file, or a file of their own.
    let module = names.join("::");
    let inner = module.strip_suffix("::tests").unwrap_or(&module);
    file.0.ends_with(&module) || file.0.ends_with(inner)
}

#[test]
fn every_test_that_the_threat_model_names_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    for folder in ["src", "crates", "tests"] {
        sources(&root.join(folder), &mut files);
    }
    let page = fs::read_to_string(root.join("docs/security.md")).unwrap();
    let (callers, _) = page.split_once("## Videos").unwrap();
    let mut rows = 0;
    for line in callers.lines().filter(|line| line.starts_with('|')) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').collect();
        let Some(last) = cells.last().filter(|cell| cell.contains("::")) else {
            continue;
        };
        rows += 1;
        for named in last.split('`').skip(1).step_by(2) {
            let is_there = files.iter().any(|file| has(file, named));
            assert!(is_there, "{named}: no such test");
        }
    }
    assert!(rows > 25, "{rows} rows");
    for line in callers.lines().filter(|line| line.starts_with("| ")) {
        let is_head = line.contains("shown by") || line.contains("| allows");
        let is_scope = line.starts_with("| `");
        assert!(
            is_head || is_scope || line.contains("::"),
            "no test: {line}"
        );
    }
}
