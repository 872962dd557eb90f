//! Lists with a heading: Kinetics' `label,youtube_id,time_start,time_end,split`, and the same with `path`, `video`, `id` or `filename` in place of
//! `youtube_id`, separated by commas, semicolons or tabs.

use csv::{ErrorKind, ReaderBuilder, StringRecord};

use super::{Fault, Row, Source};
use crate::client::annotations::split_named;
use crate::spec::Split;

/// Names of the column that says which video it is, the surest first: beside a path, an `id` is often the row's number.
pub(super) const VIDEO: &[&str] = &[
    "path",
    "video_path",
    "file_path",
    "filepath",
    "clip_path",
    "filename",
    "file_name",
    "file",
    "youtube_id",
    "video_id",
    "video_name",
    "vid_name",
    "video",
    "id",
];

/// Names of the column with the label.
pub(super) const LABEL: &[&str] = &[
    "label",
    "template",
    "class",
    "class_name",
    "classname",
    "label_name",
    "action",
];

/// Names of the column with the split.
pub(super) const SPLIT: &[&str] = &["split", "subset"];

/// Places of the columns.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Columns {
    separator: u8,
    label: usize,
    video: usize,
    start: Option<usize>,
    end: Option<usize>,
    split: Option<usize>,
}

impl Columns {
    /// Whether each row says its split.
    pub(super) fn has_split(&self) -> bool {
        self.split.is_some()
    }
}

/// The first line of a list.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Heading {
    /// It names the columns of a list.
    Columns(Columns),
    /// It names columns, but none with labels.
    NoLabel,
    /// It is a row.
    None,
}

/// What the first line names.
pub(super) fn heading(text: &str) -> Heading {
    let text = text.trim_start_matches('\u{feff}');
    let first = text.split(['\n', '\r']).next().unwrap_or_default();
    let mut heading = Heading::None;
    for separator in [b',', b';', b'\t'] {
        let names: Vec<String> = first
            .split(char::from(separator))
            .map(|name| name.trim().trim_matches('"').trim().to_lowercase())
            .collect();
        let place = |wanted: &[&str]| {
            let mut places = wanted.iter();
            places.find_map(|wanted| names.iter().position(|name| name == wanted))
        };
        let start = place(&["time_start", "start"]);
        let split = place(SPLIT);
        match (place(VIDEO), place(LABEL)) {
            (Some(video), Some(label)) => {
                return Heading::Columns(Columns {
                    separator,
                    label,
                    video,
                    start,
                    end: place(&["time_end", "end"]),
                    split,
                });
            }
            (Some(_), None) if start.or(split).is_some() => heading = Heading::NoLabel,
            (_, _) => {}
        }
    }
    heading
}

/// The rows below the heading, and the videos of rows without a label.
pub(super) fn rows(
    source: &Source,
    text: &str,
    columns: &Columns,
) -> Result<(Vec<Row>, Vec<String>), Fault> {
    let mut reader = ReaderBuilder::new()
        .delimiter(columns.separator)
        .from_reader(text.as_bytes());
    let mut rows = Vec::new();
    let mut unlabelled = Vec::new();
    for record in reader.records() {
        let record = record.map_err(|error| fault(&error))?;
        // Spreadsheets save rows that were emptied.
        if record.iter().all(|field| field.trim().is_empty()) {
            continue;
        }
        let line = record.position().map_or(0, csv::Position::line);
        let field = |at: usize| record.get(at).map(str::trim).unwrap_or_default();
        let video = field(columns.video);
        if video.is_empty() {
            return Err(Fault::Line(line, "no video is named".to_owned()));
        }
        let label = field(columns.label);
        if label.is_empty() && !source.kind.is_multi() {
            unlabelled.push(video.to_owned());
            continue;
        }
        let start = seconds(&record, columns.start, line, "time_start")?;
        let end = seconds(&record, columns.end, line, "time_end")?;
        // The whole video may be meant, or not be cut yet.
        let (names, whole) = match (start, end) {
            (Some(start), Some(end)) => (
                vec![
                    format!("{video}_{start:06.0}_{end:06.0}"),
                    format!("{video}_{start:.0}_{end:.0}"),
                ],
                Some(video.to_owned()),
            ),
            (_, _) => (vec![video.to_owned()], None),
        };
        rows.push(Row {
            line,
            names,
            whole,
            label: label.to_owned(),
            split: split(columns.split.map(field), source.split, line)?,
        });
    }
    Ok((rows, unlabelled))
}

/// The split that a row says, else its list's.
pub(super) fn split(word: Option<&str>, of_list: Option<Split>, line: u64) -> Result<Split, Fault> {
    let word = word.map(str::trim).filter(|word| !word.is_empty());
    let problem = match (word, of_list) {
        (None, Some(split)) => return Ok(split),
        (None, None) => "no split; expected train, val or test".to_owned(),
        (Some(word), _) => match split_named(word) {
            Some(split) => return Ok(split),
            None => format!("split {word:?}; expected train, val or test"),
        },
    };
    Err(Fault::Split(line, problem))
}

fn seconds(
    record: &StringRecord,
    column: Option<usize>,
    line: u64,
    name: &str,
) -> Result<Option<f64>, Fault> {
    let text = column.and_then(|at| record.get(at)).map_or("", str::trim);
    if text.is_empty() {
        return Ok(None);
    }
    match text.parse::<f64>() {
        Ok(seconds) if seconds.is_finite() && seconds >= 0.0 => Ok(Some(seconds)),
        Ok(_) | Err(_) => {
            let problem = format!("{name} {text:?} is not a number of seconds");
            Err(Fault::Line(line, problem))
        }
    }
}

fn fault(error: &csv::Error) -> Fault {
    if let ErrorKind::UnequalLengths {
        pos,
        expected_len,
        len,
    } = error.kind()
    {
        let line = pos.as_ref().map_or(0, csv::Position::line);
        let advice = match len > expected_len {
            true => "; put the label in quotes",
            false => "",
        };
        let problem = format!("{len} fields where the heading has {expected_len}{advice}");
        return Fault::Line(line, problem);
    }
    Fault::Line(
        error.position().map_or(0, csv::Position::line),
        error.to_string(),
    )
}
