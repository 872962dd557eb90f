//! Licences, banned crates and sources of every dependency follow `deny.toml`. The test needs only `cargo metadata`, not cargo-deny.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn rules() -> toml::Table {
    let text = std::fs::read_to_string(root().join("deny.toml")).expect("deny.toml");
    text.parse().expect("deny.toml is TOML")
}

/// Returns the texts of a list in `deny.toml`.
fn list(rules: &toml::Table, section: &str, key: &str) -> Vec<String> {
    let list = rules[section].get(key).and_then(toml::Value::as_array);
    let list = list.map_or(&[][..], Vec::as_slice);
    let text = |value: &toml::Value| {
        let name = value.as_str().or_else(|| value.get("crate")?.as_str());
        name.expect("a name").to_owned()
    };
    list.iter().map(text).collect()
}

/// Returns every package of the build for this machine, from the sources that the build downloaded.
fn packages() -> Vec<Value> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let run = |arguments: &[&str]| {
        let output = Command::new(&cargo)
            .current_dir(root())
            .args(arguments)
            .output();
        let output = output.expect("cargo runs");
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).expect("text")
    };
    let version = run(&["-vV"]);
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    let host = host.expect("cargo names the machine");
    let format = ["metadata", "--format-version", "1", "--locked", "--offline"];
    let metadata = run(&[&format[..], &["--filter-platform", host]].concat());
    let metadata: Value = serde_json::from_str(&metadata).expect("JSON");
    let nodes = metadata["resolve"]["nodes"].as_array().expect("a graph");
    let used: Vec<&Value> = nodes.iter().map(|node| &node["id"]).collect();
    let packages = metadata["packages"].as_array().expect("packages");
    let in_graph = |package: &&Value| used.contains(&&package["id"]);
    packages.iter().filter(in_graph).cloned().collect()
}

/// Returns whether a licence expression is satisfied by the allowed licences alone: `AND` binds more tightly than `OR`, and `/` is an old way to
/// write `OR`.
fn permits(expression: &str, allowed: &[String]) -> bool {
    let spaced = expression
        .replace('/', " OR ")
        .replace('(', " ( ")
        .replace(')', " ) ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut at = 0;
    let met = any(&words, &mut at, allowed);
    assert_eq!(at, words.len(), "{expression:?} is no licence expression");
    met
}

fn any(words: &[&str], at: &mut usize, allowed: &[String]) -> bool {
    let mut met = all(words, at, allowed);
    while words.get(*at) == Some(&"OR") {
        *at += 1;
        met |= all(words, at, allowed);
    }
    met
}

fn all(words: &[&str], at: &mut usize, allowed: &[String]) -> bool {
    let mut met = one(words, at, allowed);
    while words.get(*at) == Some(&"AND") {
        *at += 1;
        met &= one(words, at, allowed);
    }
    met
}

fn one(words: &[&str], at: &mut usize, allowed: &[String]) -> bool {
    let Some(&word) = words.get(*at) else {
        return false;
    };
    *at += 1;
    if word == "(" {
        let met = any(words, at, allowed);
        assert_eq!(words.get(*at), Some(&")"));
        *at += 1;
        return met;
    }
    let mut name = word.to_owned();
    if let [Some(&"WITH"), Some(exception)] = [words.get(*at), words.get(*at + 1)] {
        name = format!("{word} WITH {exception}");
        *at += 2;
    }
    allowed.contains(&name)
}

#[test]
fn every_dependency_has_an_allowed_licence() {
    let allowed = list(&rules(), "licenses", "allow");
    let packages = packages();
    assert!(packages.len() > 100 && allowed.len() > 5);
    let wrong: Vec<String> = packages
        .iter()
        .filter(|package| {
            let licence = package["license"].as_str();
            !licence.is_some_and(|licence| permits(licence, &allowed))
        })
        .map(|package| {
            format!(
                "{} {}: {}",
                package["name"], package["version"], package["license"]
            )
        })
        .collect();
    assert!(
        wrong.is_empty(),
        "licences that deny.toml does not allow:\n{}",
        wrong.join("\n")
    );
}

#[test]
fn no_dependency_is_banned_or_comes_from_elsewhere() {
    let rules = rules();
    let banned = list(&rules, "bans", "deny");
    assert!(!banned.is_empty());
    for key in ["unknown-registry", "unknown-git"] {
        assert_eq!(rules["sources"][key].as_str(), Some("deny"));
    }
    // The lock file lists the packages of every platform.
    let lock = std::fs::read_to_string(root().join("Cargo.lock")).expect("Cargo.lock");
    let lock: toml::Table = lock.parse().expect("Cargo.lock is TOML");
    let packages = lock["package"].as_array().expect("packages");
    for package in packages {
        let name = package["name"].as_str().expect("a name");
        assert!(
            !banned.iter().any(|banned| banned == name),
            "{name} is banned"
        );
        let Some(source) = package.get("source").and_then(toml::Value::as_str) else {
            assert!(is_own(name), "{name} has no source");
            continue;
        };
        let index = "registry+https://github.com/rust-lang/crates.io-index";
        assert_eq!(source, index, "{name}");
        assert!(package.get("checksum").is_some(), "{name} has no checksum");
    }
}

#[test]
fn no_dependency_of_our_own_takes_any_version() {
    let packages = packages();
    let own: Vec<&Value> = packages
        .iter()
        .filter(|package| package["name"].as_str().is_some_and(is_own))
        .collect();
    assert!(own.len() > 1, "the workspace has several crates");
    for package in own {
        for dependency in package["dependencies"].as_array().expect("dependencies") {
            assert_ne!(dependency["req"], "*", "{}", dependency["name"]);
        }
    }
}

/// Whether a package is one of this workspace.
fn is_own(name: &str) -> bool {
    let prefix = concat!(env!("CARGO_PKG_NAME"), "-");
    name == env!("CARGO_PKG_NAME")
        || name
            .strip_prefix(prefix)
            .is_some_and(|folder| root().join("crates").join(folder).is_dir())
}

#[test]
fn licence_expressions_are_read_as_they_are_meant() {
    let allowed = ["MIT", "Apache-2.0", "Apache-2.0 WITH LLVM-exception"].map(String::from);
    for (expression, is_met) in [
        ("MIT", true),
        ("GPL-3.0", false),
        ("MIT OR GPL-3.0", true),
        ("MIT/GPL-3.0", true),
        ("MIT AND GPL-3.0", false),
        ("MIT AND (GPL-3.0 OR Apache-2.0)", true),
        ("GPL-3.0 OR MIT AND LGPL-3.0", false),
        ("(GPL-3.0 OR MIT) AND Apache-2.0 WITH LLVM-exception", true),
        ("Apache-2.0 WITH Other-exception", false),
    ] {
        assert_eq!(permits(expression, &allowed), is_met, "{expression}");
    }
}
