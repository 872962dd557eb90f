//! Finds a folder's labelled videos: `<split>/<label>/<video>`, or annotation lists beside the videos.
//!
//! Invariant: the result's order depends on the folder's content alone, not on the order in which the file system lists it; and every file of the
//! folder is an example, or counted in a note.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::Error;
use crate::spec::{ExampleLabels, Invalid, LabelKind, Split, label_outline, normal_label};

mod folder;
mod list;
mod matching;

/// A video file with its label and split.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Labelled {
    /// The video.
    pub path: PathBuf,
    /// The labels, in their normal form: exactly one, or any number where labels do not exclude one another.
    pub labels: ExampleLabels,
    /// The split that the example belongs to.
    pub split: Split,
}

/// Things of one kind that were left out, or that look like a mistake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// The kind, for programs: `unknown_ending`, `missing_video` …
    pub kind: &'static str,
    /// Description for people: "files with unknown endings".
    pub what: String,
    /// Names of the things.
    pub items: Vec<String>,
}

/// The content of a folder.
#[derive(Debug, Default)]
pub struct Listing {
    /// The labelled videos.
    pub examples: Vec<Labelled>,
    /// Files that were left out, with the reason, and what looks like a mistake.
    pub notes: Vec<Note>,
    /// Lists of a known shape with something wrong in them; nothing of them is among the examples.
    pub broken: Vec<Error>,
    /// Whether the labels exclude one another.
    pub kind: LabelKind,
}

/// The files of a folder and of those in it that have the name of a video, by their paths below it.
///
/// # Errors
/// When a folder cannot be read.
pub(super) fn videos(root: &Path) -> Result<Vec<PathBuf>, Error> {
    Ok(folder::walk(root)?.videos)
}

/// Message for a folder without lists that has no examples.
const EXPECTED: &str = "has no labelled videos: expected <split>/<label>/<video> (splits: train, val, test), a csv with the columns label and youtube_id or path (named after its split, or with a column split), a Something-Something json, lines of \"path label\", or the split files of UCF101 or HMDB51";

/// Message for a folder whose lists name none of its videos.
const UNMATCHED: &str = "has none of the videos that its lists name";

/// Items that a note shows to people.
const SHOWN: usize = 10;

impl std::fmt::Display for Note {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.items.len(), self.what)?;
        if matches!(self.kind, "hidden" | "companion") {
            return Ok(());
        }
        let shown = &self.items[..self.items.len().min(SHOWN)];
        write!(f, ": {}", shown.join(", "))?;
        match self.items.len() - shown.len() {
            0 => Ok(()),
            more => write!(f, " and {more} more (--json has all)"),
        }
    }
}

impl Note {
    /// The note with all its items, for programs.
    pub fn json(&self) -> serde_json::Value {
        serde_json::json!({"kind": self.kind, "what": self.what, "items": self.items})
    }
}

impl Listing {
    /// Adds a note, unless there is nothing to note.
    fn note(&mut self, kind: &'static str, what: impl Into<String>, items: Vec<String>) {
        if !items.is_empty() {
            let what = what.into();
            self.notes.push(Note { kind, what, items });
        }
    }
}

/// Reads a folder whose labels exclude one another.
///
/// # Errors
/// As of [`find_of`].
pub fn find(root: &Path) -> Result<Listing, Error> {
    find_of(root, LabelKind::Single)
}

/// Reads a folder whose labels are of this kind. Where labels do not exclude one another, `;` and `|` divide the labels of a row, rows of one video and split
/// add up, and a row without a label is an example without labels.
///
/// # Errors
/// When something cannot be read, a list is ambiguous or names an unknown split, or there is no labelled video.
pub fn find_of(root: &Path, kind: LabelKind) -> Result<Listing, Error> {
    let files = folder::walk(root)?;
    let mut found = Listing {
        kind,
        ..Listing::default()
    };
    let lists = list::read(root, &files, &mut found)?;
    if lists.is_empty() && found.broken.is_empty() {
        folder::labelled(root, &files, &mut found)?;
    } else {
        matching::assign(root, &files, lists, &mut found)?;
    }
    files.note_others(&mut found);
    note_similar_labels(&mut found);
    if !found.examples.is_empty() {
        return Ok(found);
    }
    if !found.broken.is_empty() {
        return Err(found.broken.swap_remove(0));
    }
    let is_unmatched = |note: &Note| matches!(note.kind, "missing_video" | "doubtful_video");
    let was_read = found.notes.iter().any(is_unmatched);
    Err(Error::NoExamples {
        path: root.to_owned(),
        problem: if was_read { UNMATCHED } else { EXPECTED },
        notes: found.notes,
    })
}

/// The split that a folder or a list is named after, by whole words between `-`, `_`, `.` and spaces; `None` when its words name two splits.
fn split_of(name: &str) -> Option<Split> {
    let mut splits = split_words(name);
    let first = splits.next()?;
    splits.all(|split| split == first).then_some(first)
}

/// The splits that the words of a name are.
fn split_words(name: &str) -> impl Iterator<Item = Split> {
    name.split(['-', '_', '.', ' ']).filter_map(split_named)
}

/// The split that a word names.
fn split_named(word: &str) -> Option<Split> {
    match word.trim().to_lowercase().as_str() {
        "train" | "training" => Some(Split::Train),
        "val" | "valid" | "validation" | "validate" => Some(Split::Validation),
        "test" | "testing" => Some(Split::Test),
        _ => None,
    }
}

fn name_of(path: &Path) -> String {
    path.file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default()
}

/// The label or the labels of a folder or a list in their normal form.
fn labels(
    text: &str,
    kind: LabelKind,
    place: impl FnOnce() -> String,
) -> Result<ExampleLabels, Error> {
    let read = || {
        if !kind.is_multi() {
            return Ok(ExampleLabels::from(normal_label(text)?));
        }
        let parts = text
            .split([';', '|'])
            .filter(|part| !part.trim().is_empty());
        let labels: Vec<String> = parts.map(normal_label).collect::<Result<_, Invalid>>()?;
        ExampleLabels::of(labels.iter().map(String::as_str))
    };
    read().map_err(|invalid| Error::Label {
        place: place(),
        problem: invalid.problem,
    })
}

fn note_similar_labels(found: &mut Listing) {
    let mut outlines: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for label in found.examples.iter().flat_map(|own| own.labels.iter()) {
        let alike = outlines.entry(label_outline(label)).or_default();
        if !alike.contains(&label) {
            alike.push(label);
        }
    }
    let alike = outlines
        .into_values()
        .filter(|labels| labels.len() > 1)
        .map(|labels| format!("{labels:?}"))
        .collect();
    found.note(
        "similar_labels",
        "groups of labels that differ by case, spaces, hyphens or underscores only and stay different classes",
        alike,
    );
}

#[cfg(test)]
mod tests;
