//! Lists without a heading: a line is a path and a label, with white space, a comma or a semicolon between, as PySlowFast, MMAction2, Jester and the
//! reference write them.
//!
//! Invariant: the path of a line ends where the folder has a video of that name; what follows is the label, whatever spaces the two have.

use csv::{ReaderBuilder, StringRecord};

use super::{Fault, Row, Source};
use crate::client::annotations::folder::Files;
use crate::client::annotations::matching::Index;

/// What may stand between a path and a label, beside white space.
const SEPARATORS: [char; 3] = ['\t', ',', ';'];

/// A line's video and what follows it.
struct Entry {
    line: u64,
    video: String,
    rest: Vec<String>,
    /// Whether white space stands before what follows.
    is_spaced: bool,
    /// Whether the folder has the video.
    is_known: bool,
}

/// The rows. MMAction2's `path frames label` is read, too: where a number stands before the label in every line, it is that of the frames.
pub(super) fn rows(source: &Source, text: &str, files: &Files) -> Result<Vec<Row>, Fault> {
    let shape = || Fault::Shape("neither a heading nor lines of \"path label\"".to_owned());
    let Some(split) = source.split else {
        return Err(shape());
    };
    let index = Index::new(files);
    let lines = (1..).zip(text.lines().map(str::trim));
    let lines = lines.filter(|(_, line)| !line.is_empty());
    let entries: Vec<_> = lines
        .map(|(line, text)| entry(line, text, &index))
        .collect();
    let known = || entries.iter().flatten().filter(|entry| entry.is_known);
    if known().count() == 0 {
        return Err(shape());
    }
    let has_frames = known().all(|entry| entry.rest.len() > 1 && is_number(&entry.rest[0]));
    let row = |entry: Result<Entry, Fault>| {
        let entry = entry?;
        Ok(Row {
            line: entry.line,
            label: label(&entry, has_frames)?,
            names: vec![entry.video],
            whole: None,
            split,
        })
    };
    entries.into_iter().map(row).collect()
}

fn entry(line: u64, text: &str, index: &Index) -> Result<Entry, Fault> {
    let entry = |video: &str, rest: Vec<&str>, is_spaced, is_known| Entry {
        line,
        video: video.trim().to_owned(),
        rest: rest
            .into_iter()
            .map(|field| field.trim().to_owned())
            .collect(),
        is_spaced,
        is_known,
    };
    for separator in SEPARATORS.into_iter().filter(|&own| text.contains(own)) {
        let fields = fields(text, separator);
        let mut fields: Vec<&str> = fields.iter().flatten().collect();
        if !fields.is_empty() && index.knows(fields[0]) {
            let video = fields.remove(0);
            return Ok(entry(video, fields, false, true));
        }
    }
    let spaces = text.match_indices(char::is_whitespace).map(|(at, _)| at);
    if let Some(at) = spaces.rev().find(|&at| index.knows(&text[..at])) {
        let (video, rest) = text.split_at(at);
        let words = rest.trim().split_once(char::is_whitespace);
        let rest = match words {
            Some((frames, label)) if is_number(frames) => vec![frames, label],
            Some(_) | None => vec![rest],
        };
        return Ok(entry(video, rest, true, true));
    }
    let is_end = |own: char| own.is_whitespace() || SEPARATORS.contains(&own);
    let (video, label) = text
        .rsplit_once(is_end)
        .ok_or_else(|| Fault::Line(line, "expected a path and a label".to_owned()))?;
    Ok(entry(video, vec![label], false, false))
}

fn label(entry: &Entry, has_frames: bool) -> Result<String, Fault> {
    let wrong = |problem: String| Err(Fault::Line(entry.line, problem));
    let is_numbers = |text: &String| text.split_whitespace().all(is_number);
    let rest = match has_frames && entry.is_known {
        true => &entry.rest[1..],
        false => &entry.rest[..],
    };
    match rest {
        [label] if label.is_empty() => wrong("expected a path and a label".to_owned()),
        [label] if is_numbers(label) && label.contains(char::is_whitespace) => {
            wrong(format!("the labels {label}; a video has one label"))
        }
        [label] => Ok(label.clone()),
        // White space, which was taken for the number of frames.
        [number, label] if entry.is_spaced && !is_numbers(label) => Ok(format!("{number} {label}")),
        several => wrong(format!(
            "{} fields after the path; put the label in quotes",
            several.len()
        )),
    }
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// The fields of a line, with quotes as in csv; `None` when they do not end.
fn fields(line: &str, separator: char) -> Option<StringRecord> {
    let mut reader = ReaderBuilder::new()
        .has_headers(false)
        .delimiter(u8::try_from(separator).ok()?)
        .from_reader(line.as_bytes());
    reader.records().next()?.ok()
}
