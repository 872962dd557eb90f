//! The structure of the source tree: which module may import which, which module may name which crate, and how long a file may be.

mod places;

use std::fs;
use std::path::{Path, PathBuf};

const LEAVES: &[&str] = &[
    "ids",
    "spec",
    "rng",
    "proto",
    "shutdown",
    "telemetry",
    "faults",
    "fair",
    "blocking",
];

/// Modules that a module may import, in addition to the leaves and itself.
const IMPORTS: &[(&str, &[&str])] = &[
    ("ids", &[]),
    ("spec", &[]),
    ("rng", &[]),
    ("proto", &[]),
    ("shutdown", &[]),
    ("telemetry", &[]),
    ("faults", &[]),
    ("fair", &[]),
    ("blocking", &[]),
    ("store", &[]),
    ("metadata", &[]),
    ("video", &[]),
    ("synth", &[]),
    ("report", &[]),
    ("model", &[]),
    ("device", &[]),
    ("library", &["store", "metadata", "video"]),
    ("registry", &["store", "metadata"]),
    ("tenancy", &["metadata"]),
    ("engine", &["registry", "device", "model"]),
    ("exchange", &["registry", "metadata", "model"]),
    ("serving", &["engine", "library", "registry", "video"]),
    (
        "jobs",
        &[
            "library", "registry", "device", "model", "video", "store", "metadata", "serving",
        ],
    ),
    (
        "rpc",
        &[
            "serving", "exchange", "engine", "jobs", "tenancy", "library", "registry", "video",
            "metadata", "store",
        ],
    ),
    ("client", &[]),
    ("demo", &["client", "report", "synth", "video"]),
    (
        "tools",
        &[
            "model", "jobs", "video", "synth", "report", "store", "metadata", "client", "demo",
            "tenancy",
        ],
    ),
];

/// Modules that may import every module.
const ROOTS: &[&str] = &["lib", "main", "app", "config"];

/// Crates of the workspace, each with what its modules are called where they are used. `crates/core` holds four modules of the same names.
const CRATES: &[(&str, &str)] = &[("core", ""), ("model", "model"), ("video", "video")];

/// External crates, with the only module paths that may name them.
const OWNERS: &[(&[&str], &[&str])] = &[
    (
        &[
            "tonic",
            "prost",
            "prost_types",
            "tonic_types",
            "tonic_health",
            "tonic_reflection",
        ],
        &["rpc", "client", "demo", "proto", "app", "tools/bench_serve"],
    ),
    (
        &["opentelemetry", "opentelemetry_sdk", "opentelemetry_otlp"],
        &["telemetry/trace"],
    ),
    (&["object_store"], &["store"]),
    (
        &["sqlx"],
        &[
            "metadata/sql/database",
            "metadata/sql/failure",
            "metadata/sql/postgres",
            "metadata/sql/schema",
            "metadata/sql/sqlite",
        ],
    ),
    (
        &["rustls", "x509_parser"],
        &[
            "tenancy/tls",
            "tenancy/oidc/fetch",
            "rpc/listener",
            "store/bucket",
        ],
    ),
    (&["jsonwebtoken"], &["tenancy/oidc"]),
    (
        &["reqwest"],
        &["tenancy/oidc/fetch", "store/download/source"],
    ),
    (&["tonic_web", "tower_http"], &["rpc/web"]),
    (&["moka"], &["store/cache"]),
    (&["tokio_rustls"], &["rpc/listener"]),
    (&["crc32fast", "getrandom", "hmac", "subtle"], &["tenancy"]),
    (
        &["candle_core", "candle_nn"],
        &[
            "model",
            "device",
            "engine/worker",
            "engine/residency",
            "engine/warmup",
            "jobs/trainer",
            "jobs/evaluation",
            "jobs/checkpoint",
            "tools",
        ],
    ),
    (&["cudarc"], &["model/ops/cuda"]),
    (&["parquet"], &["client/columnar"]),
    (
        &["ffmpeg_sys_the_third"],
        &["video/decode", "video/encode", "video/ffmpeg"],
    ),
];

/// Files that only compute: they never wait, read a clock or do I/O.
const PURE: &[&str] = &[
    "engine/admission/share",
    "engine/batcher",
    "engine/batcher/lead",
    "engine/batcher/pace",
    "engine/batcher/sharing",
    "engine/rate",
    "fair",
    "fair/class",
    "device/schedule",
    "jobs/schedule",
    "jobs/state",
    "registry/split",
    "serving/frames/sampler",
    "serving/windows/segments",
    "tenancy/rates/share",
    "video/frames/steps",
    "video/sampling",
    "tools/bench_serve/arrivals",
    "tools/bench_serve/popularity",
    "tools/bench_serve/gates/table",
];

/// Names that a pure file must not contain. `std::time::Duration` is only a number.
const IMPURE: &[&str] = &[
    "async ",
    ".await",
    "Instant",
    "SystemTime",
    "clock",
    "std::env",
    "std::fs",
    "std::io",
    "std::net",
    "std::os",
    "std::process",
    "std::sync",
    "std::thread",
    "println!",
    "tokio",
    "futures",
    "rayon",
    "rustix",
    "libc",
    "tracing",
    "unsafe",
];

struct File {
    /// The file's module path: below `src`, or below `crates/<name>/src` with the crate's name in front; without `.rs`.
    name: String,
    text: String,
}

fn sources() -> Vec<File> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = below(&root.join("src"), "");
    for (folder, module) in CRATES {
        files.extend(below(&root.join("crates").join(folder).join("src"), module));
    }
    files
}

/// Returns the source files of one crate, named as modules of `module`, which is the crate's `lib.rs`.
fn below(src: &Path, module: &str) -> Vec<File> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).expect("sources are readable") {
            let path = entry.expect("sources are readable").path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|end| end == "rs") {
                found.push(path);
            }
        }
    }
    let mut paths = Vec::new();
    walk(src, &mut paths);
    let named = |path: &Path| {
        let inner = path.strip_prefix(src).expect("below its crate");
        let inner = inner.with_extension("").to_string_lossy().into_owned();
        match (module, inner.as_str()) {
            ("", _) => inner,
            (module, "lib") => module.to_owned(),
            (module, inner) => format!("{module}/{inner}"),
        }
    };
    paths
        .into_iter()
        .map(|path| File {
            name: named(&path),
            text: fs::read_to_string(&path).expect("a source file is text"),
        })
        .collect()
}

/// Returns the lines of a file without comments; a `#[cfg(test)]` module at the end and what follows it are left out.
fn code(text: &str) -> Vec<&str> {
    let body = text
        .find("#[cfg(test)]\nmod tests")
        .map_or(text, |end| &text[..end]);
    without_comments(body).collect()
}

fn without_comments(text: &str) -> impl Iterator<Item = &str> {
    text.lines()
        .map(|line| line.split("//").next().unwrap_or(line))
        .filter(|line| !line.trim().is_empty())
}

fn is_test(name: &str) -> bool {
    name.ends_with("/tests") || name.contains("/tests/")
}

/// Returns every `crate::name` in a line, also inside `use crate::{a, b::c}`.
fn crate_paths(code: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        let Some(list) = rest.strip_prefix('{') else {
            found.push(identifier(rest));
            continue;
        };
        let mut depth = 0;
        let mut begins = true;
        for (i, letter) in list.char_indices() {
            match letter {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => begins = true,
                letter if begins && !letter.is_whitespace() => {
                    found.push(identifier(&list[i..]));
                    begins = false;
                }
                _ => {}
            }
        }
    }
    found
}

fn identifier(text: &str) -> String {
    text.chars()
        .take_while(|letter| letter.is_alphanumeric() || *letter == '_')
        .collect()
}

#[test]
fn imports_follow_the_architecture() {
    let mut wrong = Vec::new();
    for file in sources() {
        let module = file.name.split('/').next().unwrap_or_default();
        // What a crate of the workspace may use, its own Cargo.toml says.
        let apart = CRATES.iter().any(|(_, name)| *name == module);
        if ROOTS.contains(&module) || apart || is_test(&file.name) {
            continue;
        }
        let Some((_, allowed)) = IMPORTS.iter().find(|(name, _)| *name == module) else {
            wrong.push(format!(
                "{}: a module that the table does not know",
                file.name
            ));
            continue;
        };
        let text = code(&file.text).join("\n");
        for target in crate_paths(&text) {
            let known = IMPORTS.iter().any(|(name, _)| *name == target);
            let own = target == module || LEAVES.contains(&target.as_str());
            if known && !own && !allowed.contains(&target.as_str()) {
                wrong.push(format!("{} imports {target}", file.name));
            }
            if ROOTS.contains(&target.as_str()) {
                wrong.push(format!("{} imports {target}", file.name));
            }
        }
    }
    assert!(wrong.is_empty(), "forbidden imports:\n{}", wrong.join("\n"));
}

/// An unused arrow would allow the first import that it should have prevented.
#[test]
fn every_arrow_of_the_architecture_is_used() {
    let files = sources();
    for (module, allowed) in IMPORTS {
        let own = |file: &&File| file.name.split('/').next() == Some(module);
        let text: Vec<&str> = files
            .iter()
            .filter(own)
            .filter(|file| !is_test(&file.name))
            .flat_map(|file| code(&file.text))
            .collect();
        let used = crate_paths(&text.join("\n"));
        for target in *allowed {
            assert!(
                used.iter().any(|used| used == target),
                "nothing in {module} imports {target}"
            );
        }
    }
}

#[test]
fn pure_files_neither_wait_nor_look_outside() {
    let files = sources();
    for pure in PURE {
        let file = files.iter().find(|file| file.name == *pure);
        let file = file.unwrap_or_else(|| panic!("{pure} is gone: name its successor"));
        for line in code(&file.text) {
            for word in IMPURE {
                assert!(!line.contains(word), "{pure}: {}", line.trim());
            }
        }
    }
}

#[test]
fn external_crates_stay_with_their_owners() {
    let mut wrong = Vec::new();
    for file in sources() {
        if is_test(&file.name) {
            continue;
        }
        for (crates, owners) in OWNERS {
            if owners
                .iter()
                .any(|owner| file.name == *owner || file.name.starts_with(&format!("{owner}/")))
            {
                continue;
            }
            for line in code(&file.text) {
                for name in *crates {
                    if line.contains(&format!("{name}::")) {
                        wrong.push(format!("{}: {}", file.name, line.trim()));
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "foreign crates:\n{}", wrong.join("\n"));
}

#[test]
fn only_main_and_config_read_the_environment() {
    for file in sources() {
        let module = file.name.split('/').next().unwrap_or_default();
        if matches!(module, "main" | "config") || is_test(&file.name) {
            continue;
        }
        for line in code(&file.text) {
            assert!(
                !line.contains("env::var") && !line.contains("env::vars"),
                "{}: {}",
                file.name,
                line.trim()
            );
        }
    }
}

#[test]
fn every_crate_of_the_workspace_is_read() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("crates");
    for entry in fs::read_dir(folder).expect("crates are readable") {
        let name = entry.expect("crates are readable").file_name();
        assert!(
            CRATES.iter().any(|(known, _)| name == *known),
            "crates/{} is not in the table",
            name.to_string_lossy()
        );
    }
}

#[test]
fn crates_depend_on_the_leaves_alone() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("crates");
    for (name, _) in CRATES {
        let manifest = fs::read_to_string(folder.join(name).join("Cargo.toml"))
            .expect("a crate has a manifest");
        let own = format!("frameshift-{name}");
        for line in manifest
            .lines()
            .filter(|line| line.starts_with("frameshift"))
        {
            assert!(
                line.starts_with("frameshift-core.") && *name != "core",
                "{own}: {line}"
            );
        }
    }
}

#[test]
fn files_are_short_and_named_after_their_module() {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    for file in sources().into_iter().chain(below(&tests, "tests")) {
        assert!(
            !file.name.ends_with("/mod"),
            "{}: name it after its folder",
            file.name
        );
        let lines = without_comments(&file.text).count();
        assert!(
            lines <= 500,
            "{}: {lines} lines of code and tests, at most 500",
            file.name
        );
    }
}

/// A test in a file that no other names is never run.
#[test]
fn every_file_of_tests_is_a_module() {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it");
    let files = below(&tests, "it");
    for file in &files {
        let name = file.name.strip_prefix("it/").unwrap_or("main");
        let (parent, own) = match name.rsplit_once('/') {
            Some((parent, own)) => (format!("it/{parent}"), own),
            None if name == "main" => continue,
            None => ("it/main".to_owned(), name),
        };
        let parent = files.iter().find(|file| file.name == parent);
        let parent = parent.unwrap_or_else(|| panic!("{name} has no file above it"));
        let is_named = parent.text.contains(&format!("mod {own};"));
        assert!(is_named, "{name} is no module of {}", parent.name);
    }
}

#[test]
fn one_module_hands_work_to_blocking_threads() {
    for file in sources() {
        // The crates that do not depend on the server's package do so themselves.
        let apart = file.name.starts_with("video");
        if file.name == "blocking" || apart || is_test(&file.name) {
            continue;
        }
        for line in code(&file.text) {
            assert!(
                !line.contains("spawn_blocking"),
                "{}: {}",
                file.name,
                line.trim()
            );
        }
    }
}

/// Whoever asks which database it is would soon have a use case for each.
#[test]
fn only_the_connections_know_which_database_it_is() {
    const KNOWING: &[&str] = &["database", "failure", "postgres", "schema", "sqlite"];
    for file in sources() {
        let Some(part) = file.name.strip_prefix("metadata/sql/") else {
            continue;
        };
        let module = part.split('/').next().unwrap_or_default();
        if KNOWING.contains(&module) || is_test(&file.name) {
            continue;
        }
        for line in code(&file.text) {
            for word in ["Sqlite", "Postgres", "feature =", "sqlx"] {
                assert!(!line.contains(word), "{}: {}", file.name, line.trim());
            }
        }
    }
}

#[test]
fn every_file_says_what_it_is_for() {
    for file in sources() {
        assert!(file.text.starts_with("//!"), "{}: no //! line", file.name);
    }
}

#[test]
fn the_checks_see_a_forbidden_import() {
    assert_eq!(
        crate_paths("use crate::{engine::Handle, jobs}; crate::rpc::x()"),
        ["engine", "jobs", "rpc"]
    );
}
