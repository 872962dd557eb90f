//! Annotation lists: Kinetics' csv, csv with a heading of other names for the same, Something-Something v2's json and answers, `path label` lines, and
//! the split files of UCF101 and HMDB51.
//!
//! Invariant: a file that is named like a list and is none is noted by name; a list with something wrong in it is refused with file, line and cause.

mod json;
mod lines;
pub(super) mod splits;
mod table;

use std::borrow::Cow;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use table::Heading;

use super::folder::{Files, split_of_folder};
use super::{Listing, name_of, split_of};
use crate::client::{Error, text};
use crate::spec::{LabelKind, Split};

/// One video of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Row {
    /// The line, from 1.
    pub(super) line: u64,
    /// Names that the video may have, the likeliest first.
    pub(super) names: Vec<String>,
    /// Name of the video that the row is a part of, when it is one: the file of that name is taken when no other part means it.
    pub(super) whole: Option<String>,
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

/// Bytes that a heading has at most.
const HEADING: u64 = 4096;

/// Labels by id, given apart from their list.
type Answers = Vec<(String, String)>;

/// A list's split, and what was read of it elsewhere.
struct Source<'a> {
    /// `None` when the rows say it.
    split: Option<Split>,
    /// Labels by id, of a list that has the answers apart.
    answers: &'a [(String, String)],
    /// Whether the labels exclude one another.
    kind: LabelKind,
}

/// Reads every list of a folder, in order.
pub(super) fn read(root: &Path, files: &Files, found: &mut Listing) -> Result<Vec<List>, Error> {
    let mut lists = Vec::new();
    let mut strangers = Vec::new();
    splits::read(root, files, found, &mut lists)?;
    let (answers, texts): (Vec<_>, Vec<_>) = texts(root, files)?
        .into_iter()
        .partition(|(path, text)| is_answers(path, text.as_deref().ok()));
    let answers = read_answers(root, answers, found, &mut strangers);
    for (path, text) in texts {
        let split = split_of(&name_of(path)).or_else(|| split_of_folder(path));
        let source = Source {
            split,
            answers: answers
                .iter()
                .find(|(of, _)| Some(*of) == split)
                .map_or(&[][..], |(_, answers)| answers),
            kind: found.kind,
        };
        let wrong = |line, problem| Error::List {
            path: root.join(path),
            line,
            problem,
        };
        match text.and_then(|text| rows(path, &source, &text, files)) {
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

/// A file that may be a list, and its text.
type Text<'a> = (&'a PathBuf, Result<String, Fault>);

/// The texts of all files but the official splits.
fn texts<'a>(root: &Path, files: &'a Files) -> Result<Vec<Text<'a>>, Error> {
    let others = files.lists.iter();
    let others = others.filter(|path| splits::Official::of(&name_of(path)).is_none());
    let text = |path: &'a PathBuf| Ok((path, text_of(path, &bytes(&root.join(path))?)));
    others.map(text).collect()
}

/// Whether a file's first line names the columns of a list.
pub(super) fn is_table(path: &Path) -> bool {
    let mut begin = Vec::new();
    let read = File::open(path).and_then(|file| file.take(HEADING).read_to_end(&mut begin));
    if read.is_err() {
        return false;
    }
    // Later lines may be cut, or not be what the heading promises.
    let line = begin.iter().position(|&byte| byte == b'\n');
    begin.truncate(line.unwrap_or(begin.len()));
    let text = text(&begin);
    text.is_ok_and(|text| matches!(table::heading(&text), Heading::Columns(_)))
}

fn bytes(path: &Path) -> Result<Vec<u8>, Error> {
    fs::read(path).map_err(|source| Error::Read {
        path: path.to_owned(),
        source,
    })
}

/// The rows, and the ids of entries without a label.
fn rows(
    path: &Path,
    source: &Source,
    text: &str,
    files: &Files,
) -> Result<(Vec<Row>, Vec<String>), Fault> {
    if is_json(path) {
        return json::rows(source, text);
    }
    match table::heading(text) {
        Heading::Columns(columns) if source.split.is_none() && !columns.has_split() => Err(
            Fault::Shape("no split in its name, and no column split".to_owned()),
        ),
        Heading::Columns(columns) => table::rows(source, text, &columns),
        Heading::NoLabel => Err(Fault::Shape("its heading names no label".to_owned())),
        Heading::None if source.split.is_none() => {
            Err(Fault::Shape("no split in its name, or two".to_owned()))
        }
        Heading::None => Ok((lines::rows(source, text, files)?, Vec::new())),
    }
}

/// Whether a file has the labels of a list that is given without: its name says so, and it is no list itself.
fn is_answers(path: &Path, text: Option<&str>) -> bool {
    let is_list = text.is_some_and(|text| matches!(table::heading(text), Heading::Columns(_)));
    name_of(path).to_lowercase().contains("answers") && !is_json(path) && !is_list
}

/// The labels that are given apart from their list, by split: lines of `id;label`.
fn read_answers(
    root: &Path,
    files: Vec<Text<'_>>,
    found: &mut Listing,
    strangers: &mut Vec<String>,
) -> Vec<(Split, Answers)> {
    let mut all = Vec::new();
    for (path, text) in files {
        let Some(split) = split_of(&name_of(path)) else {
            continue;
        };
        match text.and_then(|text| labels(&text)) {
            Ok(labels) => all.push((split, labels)),
            Err(Fault::Shape(why)) => strangers.push(format!("{} ({why})", path.display())),
            Err(Fault::Line(line, problem) | Fault::Split(line, problem)) => {
                found.broken.push(Error::List {
                    path: root.join(path),
                    line,
                    problem,
                });
            }
        }
    }
    all
}

/// Ids and labels, one of each a line.
fn labels(text: &str) -> Result<Answers, Fault> {
    let lines = (1..).zip(text.lines());
    let lines = lines.filter(|(_, line)| !line.trim().is_empty());
    let mut labels = Vec::new();
    for (line, entry) in lines {
        let fields = entry.split_once([';', '\t', ',']);
        let Some((id, label)) = fields else {
            return Err(match labels.is_empty() {
                true => Fault::Shape("no lines of \"id;label\"".to_owned()),
                false => Fault::Line(line, "expected id;label".to_owned()),
            });
        };
        let label = label.trim().trim_matches('"');
        labels.push((id.trim().to_owned(), label.to_owned()));
    }
    Ok(labels)
}

/// The text of a file that may be a list; when it is none by its first line, it needs no text.
fn text_of(path: &Path, bytes: &[u8]) -> Result<String, Fault> {
    let text = text(bytes).map(Cow::into_owned);
    text.map_err(|fault| match fault {
        Fault::Line(_, problem) if !is_json(path) && !has_heading(bytes) => Fault::Shape(problem),
        fault @ (Fault::Line(..) | Fault::Shape(_) | Fault::Split(..)) => fault,
    })
}

fn is_json(path: &Path) -> bool {
    let ending = path.extension();
    ending.is_some_and(|ending| ending.eq_ignore_ascii_case("json"))
}

fn has_heading(bytes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(bytes);
    !matches!(table::heading(&text), Heading::None)
}

/// The text of a list, without a byte order mark.
fn text(bytes: &[u8]) -> Result<Cow<'_, str>, Fault> {
    text::decode(bytes).map_err(|wrong| Fault::Line(wrong.line, wrong.problem))
}

#[cfg(test)]
mod tests;
