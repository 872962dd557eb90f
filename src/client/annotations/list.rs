//! Annotation lists: Kinetics' csv, csv with a heading of other names for the same, Something-Something v2's json and answers, `path label` lines, and
//! the split files of UCF101 and HMDB51.
//!
//! Invariant: a file that is named like a list and is none is noted by name; a list with something wrong in it is refused with file, line and cause.

mod json;
mod lines;
pub(super) mod splits;
mod table;

use std::fs;
use std::path::{Path, PathBuf};

use super::folder::Files;
use super::{Listing, name_of, split_of};
use crate::client::Error;
use crate::spec::Split;

/// One video of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Row {
    /// The line, from 1.
    pub(super) line: u64,
    /// Names that the video may have, the likeliest first.
    pub(super) names: Vec<String>,
    pub(super) label: String,
    pub(super) split: Split,
}

/// A list that could be read.
#[derive(Debug)]
pub(super) struct List {
    /// Below the folder.
    pub(super) path: PathBuf,
    pub(super) rows: Vec<Row>,
}

/// A fault of a list.
#[derive(Debug, PartialEq, Eq)]
enum Fault {
    /// The file has no shape of a list; why not.
    Shape(String),
    /// A line of a list is wrong.
    Line(u64, String),
    /// A line names a split that there is not: guessing would train on it.
    Split(u64, String),
}

/// Labels by id, given apart from their list.
type Answers = Vec<(String, String)>;

/// A list's split and bytes, and what was read of it elsewhere.
struct Source<'a> {
    split: Split,
    bytes: &'a [u8],
    /// Labels by id, of a list that has the answers apart.
    answers: &'a [(String, String)],
}

/// Reads every list of a folder, in order.
pub(super) fn read(root: &Path, files: &Files, found: &mut Listing) -> Result<Vec<List>, Error> {
    let mut lists = Vec::new();
    let mut strangers = Vec::new();
    let answers = answers(root, files)?;
    splits::read(root, files, found, &mut lists)?;
    for path in &files.lists {
        if splits::Official::of(&name_of(path)).is_some() {
            continue;
        }
        let Some(split) = split_of(&name_of(path)) else {
            continue;
        };
        if is_answers(path) {
            continue;
        }
        let bytes = bytes(&root.join(path))?;
        let source = Source {
            split,
            bytes: &bytes,
            answers: answers
                .iter()
                .find(|(of, _)| *of == split)
                .map_or(&[][..], |(_, answers)| answers),
        };
        let wrong = |line, problem| Error::List {
            path: root.join(path),
            line,
            problem,
        };
        match rows(path, &source, files) {
            Ok((rows, unlabelled)) => {
                let what = format!("entries of {} without a label", path.display());
                found.note("unlabelled_entry", what, unlabelled);
                lists.push(List {
                    path: path.clone(),
                    rows,
                });
            }
            Err(Fault::Shape(why)) => strangers.push(format!("{} ({why})", path.display())),
            Err(Fault::Line(line, problem)) => found.broken.push(wrong(line, problem)),
            Err(Fault::Split(line, problem)) => return Err(wrong(line, problem)),
        }
    }
    found.note(
        "not_a_list",
        "files named like annotation lists that are none (expected: csv with the columns label and youtube_id or path; json with id and template; or lines of \"path label\")",
        strangers,
    );
    Ok(lists)
}

fn bytes(path: &Path) -> Result<Vec<u8>, Error> {
    fs::read(path).map_err(|source| Error::Read {
        path: path.to_owned(),
        source,
    })
}

/// The rows, and the ids of entries without a label.
fn rows(path: &Path, source: &Source, files: &Files) -> Result<(Vec<Row>, Vec<String>), Fault> {
    if path
        .extension()
        .is_some_and(|ending| ending.eq_ignore_ascii_case("json"))
    {
        return json::rows(source);
    }
    if let Some(columns) = table::columns(source.bytes) {
        return Ok((table::rows(source, &columns)?, Vec::new()));
    }
    Ok((lines::rows(source, files)?, Vec::new()))
}

fn is_answers(path: &Path) -> bool {
    name_of(path).to_lowercase().contains("answers")
}

/// The labels that are given apart from their list, by split: lines of `id;label`.
fn answers(root: &Path, files: &Files) -> Result<Vec<(Split, Answers)>, Error> {
    let mut found = Vec::new();
    let of_split_files = |path: &&PathBuf| splits::Official::of(&name_of(path)).is_none();
    let lists = files.lists.iter().filter(of_split_files);
    for path in lists.filter(|path| is_answers(path)) {
        let Some(split) = split_of(&name_of(path)) else {
            continue;
        };
        let path = root.join(path);
        let bytes = bytes(&path)?;
        let wrong = |fault| match fault {
            Fault::Line(line, problem) | Fault::Split(line, problem) => Error::List {
                path: path.clone(),
                line,
                problem,
            },
            Fault::Shape(problem) => Error::List {
                path: path.clone(),
                line: 1,
                problem,
            },
        };
        let text = text(&bytes).map_err(wrong)?;
        let mut labels = Vec::new();
        for (line, entry) in (1..)
            .zip(text.lines())
            .filter(|(_, line)| !line.trim().is_empty())
        {
            let Some((id, label)) = entry.split_once(';') else {
                return Err(wrong(Fault::Line(line, "expected id;label".to_owned())));
            };
            labels.push((id.trim().to_owned(), label.to_owned()));
        }
        found.push((split, labels));
    }
    Ok(found)
}

/// The text of a list, without a byte order mark.
fn text(bytes: &[u8]) -> Result<&str, Fault> {
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        let problem = "UTF-16; save it as UTF-8".to_owned();
        return Err(Fault::Line(1, problem));
    }
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    std::str::from_utf8(bytes).map_err(|error| {
        let good = &bytes[..error.valid_up_to()];
        let begin = good
            .iter()
            .rposition(|&b| b == b'\n')
            .map_or(0, |at| at + 1);
        let line = good.iter().filter(|&&b| b == b'\n').count() as u64 + 1;
        let column = String::from_utf8_lossy(&good[begin..]).chars().count() + 1;
        let byte = bytes.get(error.valid_up_to()).copied().unwrap_or_default();
        let problem = format!("not UTF-8 (byte 0x{byte:02x} at column {column}); save it as UTF-8");
        Fault::Line(line, problem)
    })
}
