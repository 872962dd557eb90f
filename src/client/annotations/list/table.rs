//! Lists with a heading: Kinetics' `label,youtube_id,time_start,time_end,split`, and the same with `path`, `video`, `id` or `filename` in place of
//! `youtube_id`, separated by commas, semicolons or tabs.

use csv::{ErrorKind, ReaderBuilder, StringRecord};

use super::{Fault, Row, Source, text};
use crate::client::annotations::split_named;
use crate::spec::Split;

/// Names of the column that says which video it is.
const VIDEO: &[&str] = &[
    "youtube_id",
    "video",
    "video_id",
    "id",
    "path",
    "video_path",
    "filename",
    "file",
    "file_name",
];

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

/// The columns that the first line names; `None` when it is no heading.
pub(super) fn columns(bytes: &[u8]) -> Option<Columns> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let first = bytes.split(|&byte| byte == b'\n').next()?;
    let first = std::str::from_utf8(first).ok()?;
    [b',', b';', b'\t'].into_iter().find_map(|separator| {
        let names: Vec<String> = first
            .split(char::from(separator))
            .map(|name| name.trim().trim_matches('"').to_lowercase())
            .collect();
        let place = |wanted: &[&str]| {
            names
                .iter()
                .position(|name| wanted.contains(&name.as_str()))
        };
        Some(Columns {
            separator,
            label: place(&["label", "class"])?,
            video: place(VIDEO)?,
            start: place(&["time_start", "start"]),
            end: place(&["time_end", "end"]),
            split: place(&["split", "subset"]),
        })
    })
}

/// The rows below the heading.
pub(super) fn rows(source: &Source, columns: &Columns) -> Result<Vec<Row>, Fault> {
    let text = text(source.bytes)?;
    let mut reader = ReaderBuilder::new()
        .delimiter(columns.separator)
        .from_reader(text.as_bytes());
    let mut rows = Vec::new();
    for record in reader.records() {
        let record = record.map_err(|error| fault(&error))?;
        let line = record.position().map_or(0, csv::Position::line);
        let field = |at: usize| record.get(at).map(str::trim).unwrap_or_default();
        let video = field(columns.video);
        if video.is_empty() {
            return Err(Fault::Line(line, "no video is named".to_owned()));
        }
        let start = seconds(&record, columns.start, line, "time_start")?;
        let end = seconds(&record, columns.end, line, "time_end")?;
        let mut names = Vec::new();
        if let (Some(start), Some(end)) = (start, end) {
            names.push(format!("{video}_{start:06.0}_{end:06.0}"));
            names.push(format!("{video}_{start:.0}_{end:.0}"));
        }
        names.push(video.to_owned());
        rows.push(Row {
            line,
            names,
            label: field(columns.label).to_owned(),
            split: split(columns.split.map(field), line)?.unwrap_or(source.split),
        });
    }
    Ok(rows)
}

fn split(word: Option<&str>, line: u64) -> Result<Option<Split>, Fault> {
    match word {
        None | Some("") => Ok(None),
        Some(word) => split_named(word).map(Some).ok_or_else(|| {
            let problem = format!("split {word:?}; expected train, val or test");
            Fault::Split(line, problem)
        }),
    }
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
