//! What the cargo features bring into the program, by the dependencies that cargo resolves.

use std::path::Path;
use std::process::Command;

/// Returns the names of all packages that the program is built from on this machine.
fn packages(arguments: &[&str]) -> Vec<String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")))
        .args(["tree", "--package", "frameshift"])
        .args(["--locked", "--offline", "--edges", "normal"])
        .args(["--prefix", "none", "--format", "{p}"])
        .args(arguments)
        .output()
        .expect("cargo runs");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    let text = String::from_utf8(output.stdout).expect("text");
    let names = text.lines().filter_map(|line| line.split(' ').next());
    names.map(str::to_owned).collect()
}

/// HTTP clients, and what only they need.
const CLIENTS: [&str; 4] = ["reqwest", "hyper-rustls", "ureq", "quick-xml"];

#[test]
fn without_features_the_program_has_no_http_client() {
    let embedded = packages(&["--no-default-features"]);
    let whole = packages(&[]);
    assert!(embedded.contains(&"object_store".to_owned()));
    for name in CLIENTS {
        assert!(!embedded.iter().any(|package| package == name), "{name}");
    }
    assert!(whole.iter().any(|package| package == "reqwest"));
    for kind in ["s3", "gcs", "azure", "oidc"] {
        let one = packages(&["--no-default-features", "--features", kind]);
        assert!(one.iter().any(|package| package == "reqwest"), "{kind}");
    }
}

#[test]
fn all_of_tls_uses_one_provider() {
    let whole = packages(&[]);
    assert!(whole.iter().any(|package| package == "ring"));
    for other in ["openssl-sys", "native-tls"] {
        assert!(!whole.iter().any(|package| package == other), "{other}");
    }
    // The signatures of tokens are verified by another library, which TLS has nothing to do with.
    let users = packages(&["--invert", "aws-lc-rs", "--depth", "1"]);
    assert_eq!(users, ["aws-lc-rs", "jsonwebtoken"]);
}
