//! Broken and hostile checkpoints: each is refused for a reason that fits, without running, hanging or allocating what it claims.

use std::path::Path;
use std::time::{Duration, Instant};

use frameshift::model::load::{Error, open};
use serde::Deserialize;

use super::case::{folders, read_json};
use super::root;
use crate::allocation;

/// Where the pickles with code would leave their mark.
const CANARY: &str = "/tmp/pwned";
/// Largest single allocation while a case is refused; the largest checkpoint there has less.
const MOST_BYTES: usize = 32 << 20;
const MOST_TIME: Duration = Duration::from_secs(20);

#[derive(Deserialize)]
struct Bad {
    name: String,
    expect: String,
    why: String,
}

/// Kinds of refusal that fit what a case's `why` speaks of. All rules whose words are there apply; a `why` without any of these words only asks for
/// some refusal.
const RULES: &[(&[&str], &[&str])] = &[
    (
        &["not json", "no json", "invalid json"],
        &["json", "header"],
    ),
    (&["zero bytes", "empty"], &["header", "no weights"]),
    (&["header"], &["header"]),
    (&["ends inside", "truncat", "cut off"], &["header"]),
    (&["offsets", "share bytes", "overlap"], &["header"]),
    (&["overflow"], &["header", "config"]),
    (&["twice", "duplicate"], &["header", "json"]),
    (&["absent", "missing", "lacks a tensor"], &["missing"]),
    (&["extra", "changes the function"], &["extra"]),
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
        &["vit ", "vit with", "resnet", "text tower"],
        &["unsupported"],
    ),
    (&["pickl", "torch.save", "torch never"], &["unsupported"]),
];

fn kind(error: &Error) -> &'static str {
    match error {
        Error::Io { .. } => "io",
        Error::NotAFile { .. } => "no file",
        Error::TooLarge { .. } => "too large",
        Error::Json { .. } => "json",
        Error::Config { .. } => "config",
        Error::Header { .. } => "header",
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
fn plausible(why: &str, pickle: bool) -> Option<Vec<&'static str>> {
    if pickle {
        // Whatever is wrong inside a pickle, its format is refused before anything is looked at.
        return Some(vec!["unsupported"]);
    }
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

fn holds_pickle(folder: &Path) -> bool {
    let mut names = std::fs::read_dir(folder)
        .expect("the folder is readable")
        .map(|entry| entry.expect("the folder is readable").path());
    names.any(|path| {
        path.extension()
            .is_some_and(|end| end == "bin" || end == "pt" || end == "pth")
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
    let begin = Instant::now();
    let (loaded, largest) = allocation::largest(|| open(folder));
    let took = begin.elapsed();
    let Err(error) = loaded else {
        return Err("it loads".to_owned());
    };
    let (kind, message) = (kind(&error), error.to_string());
    println!("{}: {kind}: {message}", case.name);
    if message.is_empty() {
        return Err("the refusal says nothing".to_owned());
    }
    if took > MOST_TIME {
        return Err(format!("the refusal took {took:?}"));
    }
    if largest > MOST_BYTES {
        return Err(format!("the refusal allocated {largest} bytes at once"));
    }
    match plausible(&case.why, holds_pickle(folder)) {
        Some(kinds) if !kinds.contains(&kind) => Err(format!(
            "refused as {kind}, expected one of {kinds:?}: {message}"
        )),
        _ => Ok(()),
    }
}

#[test]
fn phrases_are_found_at_the_beginning_of_words() {
    assert!(has("a nan among the weights", "nan"));
    assert!(!has("nanometres", "nan"));
    assert!(has("unpickling, pickled", "pickl"));
    assert!(!has("unpickled", "pickl"));
    assert!(has("stored as i8 (quantised)", "i8"));
}
