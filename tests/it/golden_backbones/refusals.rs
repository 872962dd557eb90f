//! Broken and hostile checkpoints: each is refused for a reason that fits, without running, hanging or allocating what it claims.

use std::path::{Path, PathBuf};
use std::time::Duration;

use frameshift::model::load::{Error, Loaded, open};
use serde::Deserialize;

use super::case::{folders, read_json};
use super::root;
use crate::allocation;
use crate::processes::Stopwatch;

/// Where the pickles with code would leave their mark.
const CANARY: &str = "/tmp/pwned";
/// What a refusal may take over the files themselves.
const MOST_BYTES: usize = 256 << 20;
/// Largest single allocation while a case is refused; the largest checkpoint there has less.
const MOST_AT_ONCE: usize = 32 << 20;
/// How long a refusal may take; the best of some tries counts, since other processes take the processor, too.
const MOST_TIME: Duration = Duration::from_secs(1);
const TRIES: usize = 5;

#[derive(Deserialize)]
struct Bad {
    name: String,
    expect: String,
    why: String,
    /// What may happen instead.
    #[serde(default)]
    expect_otherwise: Option<String>,
}

/// Kinds of refusal that fit what a case's `why` speaks of. All rules whose words are there apply; a `why` without any of these words only asks for
/// some refusal.
const RULES: &[(&[&str], &[&str])] = &[
    (
        &["not json", "no json", "invalid json"],
        &["json", "header"],
    ),
    (
        &["zero bytes", "empty"],
        &["header", "no weights", "unsupported"],
    ),
    (&["header"], &["header"]),
    (&["ends inside", "truncat", "cut off"], &["header", "torch"]),
    (&["offsets", "share bytes", "overlap"], &["header"]),
    (&["overflow"], &["header", "config"]),
    (&["twice", "duplicate"], &["header", "json"]),
    (&["absent", "missing", "lacks a tensor"], &["missing"]),
    (
        &["extra", "changes the function"],
        &["extra", "unsupported"],
    ),
    (
        &["more layers", "fewer layers"],
        &["missing", "extra", "config"],
    ),
    (&["multiple of", "divide", "heads"], &["config"]),
    (&["activation"], &["config"]),
    (&["index", "shard", "leaves the folder"], &["index"]),
    (&["infinity", "nan", "finite"], &["not finite"]),
    (&["i8", "quantised", "integer", "stored as"], &["dtype"]),
    (
        &["grid", "position table", "shape of"],
        &["shape", "config"],
    ),
    (&["config.json alone", "no weights"], &["no weights"]),
    (
        &[
            "vit ",
            "vit with",
            "resnet",
            "text tower",
            "class token",
            "register",
            "rotary",
            "stem",
        ],
        &["unsupported"],
    ),
    (
        &[
            "pickl",
            "torch.save",
            "torch never",
            "storage",
            "memo",
            "view ",
            "nested",
            "opcode",
            "global",
        ],
        &["torch", "unsupported"],
    ),
];

fn kind(error: &Error) -> &'static str {
    match error {
        Error::Io { .. } => "io",
        Error::NotAFile { .. } => "no file",
        Error::TooLarge { .. } => "too large",
        Error::Json { .. } => "json",
        Error::Config { .. } => "config",
        Error::Header { .. } => "header",
        Error::Torch { .. } => "torch",
        Error::Undecided { .. } => "undecided",
        Error::Override { .. } => "override",
        Error::Index { .. } => "index",
        Error::NoWeights { .. } => "no weights",
        Error::Ambiguous { .. } => "ambiguous",
        Error::NoConfig { .. } => "no configuration",
        Error::Unsupported { .. } => "unsupported",
        Error::Missing { .. } => "missing",
        Error::Extra { .. } => "extra",
        Error::Shape { .. } => "shape",
        Error::Dtype { .. } => "dtype",
        Error::NonFinite { .. } => "not finite",
        Error::Model(_) => "model",
    }
}

/// Which kinds fit; `None` when any does.
fn plausible(why: &str) -> Option<Vec<&'static str>> {
    let why = why.to_lowercase();
    let kinds: Vec<&str> = RULES
        .iter()
        .filter(|(words, _)| words.iter().any(|word| has(&why, word)))
        .flat_map(|(_, kinds)| kinds.iter().copied())
        .collect();
    (!kinds.is_empty()).then_some(kinds)
}

/// Whether a text has a phrase that begins at the beginning of a word; a phrase of at most three letters is a whole word.
fn has(text: &str, phrase: &str) -> bool {
    text.match_indices(phrase).any(|(at, _)| {
        let letter = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
        let begins = !letter(text[..at].chars().next_back());
        let ends = !letter(text[at + phrase.len()..].chars().next());
        begins && (ends || phrase.len() > 3)
    })
}

#[test]
fn every_bad_checkpoint_is_refused_for_a_reason_that_fits() {
    assert!(
        !Path::new(CANARY).exists(),
        "{CANARY} is there already: remove it"
    );
    let cases = folders(&root().join("bad"));
    assert!(!cases.is_empty(), "no bad checkpoint in {:?}", root());
    let mut wrong = Vec::new();
    for folder in &cases {
        let case: Bad = read_json(&folder.join("case.json"));
        assert_eq!(case.expect, "refuse", "{}: what is expected?", case.name);
        if let Err(problem) = check(folder, &case) {
            wrong.push(format!("{}: {problem} (why: {})", case.name, case.why));
        }
    }
    println!("{} bad checkpoints are refused", cases.len());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(!Path::new(CANARY).exists(), "a checkpoint ran a command");
}

fn check(folder: &Path, case: &Bad) -> Result<(), String> {
    let before = listing(folder);
    let begin = Stopwatch::begin();
    let ((loaded, at_once), peak) = allocation::peak(|| allocation::largest(|| open(folder)));
    let mut took = begin.elapsed();
    if listing(folder) != before {
        return Err("its folder has changed".to_owned());
    }
    let error = match (loaded, &case.expect_otherwise) {
        (Err(error), _) => error,
        (Ok(loaded), Some(otherwise)) => return loads_right(folder, &loaded, otherwise),
        (Ok(_), None) => return Err("it loads".to_owned()),
    };
    let (kind, message) = (kind(&error), error.to_string());
    println!("{}: {kind}: {message}", case.name);
    if message.is_empty() {
        return Err("the refusal says nothing".to_owned());
    }
    for _ in 1..TRIES {
        if took <= MOST_TIME {
            break;
        }
        let begin = Stopwatch::begin();
        drop(open(folder));
        took = took.min(begin.elapsed());
    }
    if took > MOST_TIME {
        return Err(format!("the refusal took {took:?}"));
    }
    if at_once > MOST_AT_ONCE || peak > MOST_BYTES {
        return Err(format!(
            "the refusal allocated {at_once} bytes at once, {peak} in all"
        ));
    }
    match plausible(&case.why) {
        Some(kinds) if !kinds.contains(&kind) => Err(format!(
            "refused as {kind}, expected one of {kinds:?}: {message}"
        )),
        _ => Ok(()),
    }
}

/// Names and sizes of a folder's files.
fn listing(folder: &Path) -> Vec<(PathBuf, u64)> {
    let entries = std::fs::read_dir(folder).expect("the folder is readable");
    let mut files: Vec<_> = entries
        .map(|entry| entry.expect("the folder is readable").path())
        .map(|path| (path.clone(), path.metadata().map_or(0, |file| file.len())))
        .collect();
    files.sort();
    files
}

/// A case that may load has the same tensors as a neighbour in another format: their safetensors with its configuration have its digest.
fn loads_right(folder: &Path, loaded: &Loaded, otherwise: &str) -> Result<(), String> {
    println!("{}: loads; {otherwise}", folder.display());
    let config = folder.join("config.json");
    let together = tempfile::tempdir().expect("a temporary folder");
    for neighbour in folders(&root().join("bad")) {
        let weights = neighbour.join("model.safetensors");
        if weights.is_file() {
            std::fs::copy(&config, together.path().join("config.json")).expect("a copy");
            std::fs::copy(&weights, together.path().join("model.safetensors")).expect("a copy");
            if open(together.path()).is_ok_and(|other| other.digest == loaded.digest) {
                return Ok(());
            }
        }
    }
    Err("it loads, but has no neighbour's tensors".to_owned())
}

#[test]
fn the_program_refuses_bad_checkpoints_without_writing_a_file() {
    let cases = folders(&root().join("bad"));
    assert!(!cases.is_empty(), "no bad checkpoint in {:?}", root());
    for folder in &cases {
        // The shell forbids every write to a file: the first one would end the program by a signal.
        let output = std::process::Command::new("sh")
            .arg("-c")
            .arg("ulimit -f 0; exec \"$0\" inspect --json \"$1\"")
            .arg(env!("CARGO_BIN_EXE_frameshift"))
            .arg(folder)
            .output()
            .expect("the program runs");
        let said = [output.stdout, output.stderr].concat();
        assert!(
            output.status.code().is_some(),
            "{}: {:?}",
            folder.display(),
            output.status
        );
        assert!(!said.is_empty(), "{}: nothing is said", folder.display());
    }
    assert!(!Path::new(CANARY).exists(), "a checkpoint ran a command");
}

#[test]
fn phrases_are_found_at_the_beginning_of_words() {
    assert!(has("a nan among the weights", "nan"));
    assert!(!has("nanometres", "nan"));
    assert!(has("unpickling, pickled", "pickl"));
    assert!(!has("unpickled", "pickl"));
    assert!(has("stored as i8 (quantised)", "i8"));
}
