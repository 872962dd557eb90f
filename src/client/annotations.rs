//! Finds a folder's labelled videos: `<split>/<label>/<video>`, Kinetics' csv lists, or Something-Something v2's json lists.
//!
//! Invariant: the result's order depends on the folder's content alone, not on the order in which the file system lists it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::Error;
use crate::spec::Split;

/// File name endings that count as videos.
const ENDINGS: &[&str] = &[
    "mp4", "m4v", "mov", "mkv", "webm", "avi", "ts", "flv", "mpg", "mpeg",
];

/// One labelled file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Labelled {
    /// The video.
    pub path: PathBuf,
    /// Its label.
    pub label: String,
    /// Its split.
    pub split: Split,
}

/// What a folder holds.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// The labelled videos.
    pub examples: Vec<Labelled>,
    /// Entries of a list whose video is not there.
    pub missing: Vec<String>,
}

/// Reads a folder.
///
/// # Errors
/// When something cannot be read, a list is malformed, or there is no labelled video.
pub fn find(root: &Path) -> Result<Listing, Error> {
    let lists: Vec<PathBuf> = entries(root)?
        .into_iter()
        .filter(|path| path.is_file() && split_of_list(path).is_some())
        .collect();
    let found = if lists.is_empty() {
        folders(root)?
    } else {
        let mut videos = BTreeMap::new();
        index(root, &mut videos, 0)?;
        let mut found = Listing::default();
        for list in lists {
            if has_ending(&list, "csv") {
                kinetics(&list, &videos, &mut found)?;
            } else {
                something_something(&list, &videos, &mut found)?;
            }
        }
        found
    };
    if found.examples.is_empty() {
        return Err(Error::NoExamples {
            path: root.to_owned(),
        });
    }
    Ok(found)
}

/// The split that a folder or a list is named after: whole words between `-`, `_` and `.`.
fn split_of(name: &str) -> Option<Split> {
    name.to_lowercase()
        .split(['-', '_', '.'])
        .find_map(|word| match word {
            "train" | "training" => Some(Split::Train),
            "val" | "valid" | "validation" | "validate" => Some(Split::Validation),
            "test" | "testing" => Some(Split::Test),
            _ => None,
        })
}

fn split_of_list(path: &Path) -> Option<Split> {
    (has_ending(path, "csv") || has_ending(path, "json"))
        .then(|| split_of(&name_of(path)))
        .flatten()
}

fn name_of(path: &Path) -> String {
    path.file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default()
}

fn has_ending(path: &Path, wanted: &str) -> bool {
    path.extension()
        .is_some_and(|ending| ending.eq_ignore_ascii_case(wanted))
}

fn is_video(path: &Path) -> bool {
    ENDINGS.iter().any(|ending| has_ending(path, ending))
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let error = |source| Error::Read {
        path: folder.to_owned(),
        source,
    };
    let mut paths = fs::read_dir(folder)
        .map_err(error)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<Vec<_>, _>>()
        .map_err(error)?;
    paths.sort();
    Ok(paths)
}

fn folders(root: &Path) -> Result<Listing, Error> {
    let mut found = Listing::default();
    for folder in entries(root)?.into_iter().filter(|path| path.is_dir()) {
        let Some(split) = split_of(&name_of(&folder)) else {
            continue;
        };
        for labelled in entries(&folder)?.into_iter().filter(|path| path.is_dir()) {
            let label = name_of(&labelled);
            let videos = entries(&labelled)?.into_iter();
            found
                .examples
                .extend(videos.filter(|path| is_video(path)).map(|path| Labelled {
                    path,
                    label: label.clone(),
                    split,
                }));
        }
    }
    Ok(found)
}

/// All videos below a folder by their name without its ending; the first of equal names counts.
fn index(folder: &Path, videos: &mut BTreeMap<String, PathBuf>, depth: usize) -> Result<(), Error> {
    // Deep enough for `videos/<split>/<label>/`, and an end for folders that link to themselves.
    if depth > 6 {
        return Ok(());
    }
    for path in entries(folder)? {
        if path.is_dir() {
            index(&path, videos, depth + 1)?;
        } else if is_video(&path) {
            let stem = path
                .file_stem()
                .map(|stem| stem.to_string_lossy().into_owned())
                .unwrap_or_default();
            videos.entry(stem).or_insert(path);
        }
    }
    Ok(())
}

fn add(
    found: &mut Listing,
    videos: &BTreeMap<String, PathBuf>,
    stems: &[String],
    label: String,
    split: Split,
) {
    match stems.iter().find_map(|stem| videos.get(stem)) {
        Some(path) => found.examples.push(Labelled {
            path: path.clone(),
            label,
            split,
        }),
        None => found
            .missing
            .push(stems.first().cloned().unwrap_or_default()),
    }
}

/// `label,youtube_id,time_start,time_end,split`; files are called `<youtube_id>_<start>_<end>` with six digits each, or `<youtube_id>`.
fn kinetics(
    list: &Path,
    videos: &BTreeMap<String, PathBuf>,
    found: &mut Listing,
) -> Result<(), Error> {
    #[derive(Deserialize)]
    struct Row {
        label: String,
        youtube_id: String,
        time_start: Option<f64>,
        time_end: Option<f64>,
        split: Option<String>,
    }
    let wrong = |entry, problem| Error::Annotation {
        path: list.to_owned(),
        entry,
        problem,
    };
    let mut rows = csv::Reader::from_path(list).map_err(|_| wrong(0, "cannot be read"))?;
    for (i, row) in rows.deserialize::<Row>().enumerate() {
        let row = row.map_err(|_| {
            wrong(
                i + 1,
                "expected the columns label, youtube_id, time_start, time_end, split",
            )
        })?;
        let split = row
            .split
            .as_deref()
            .and_then(split_of)
            .or_else(|| split_of_list(list))
            .ok_or_else(|| wrong(i + 1, "unknown split"))?;
        let mut stems = Vec::new();
        if let (Some(start), Some(end)) = (row.time_start, row.time_end) {
            stems.push(format!("{}_{start:06.0}_{end:06.0}", row.youtube_id));
        }
        stems.push(row.youtube_id);
        add(found, videos, &stems, row.label, split);
    }
    Ok(())
}

/// A list of `{"id", "template" or "label"}`; the brackets around what stands for an object are removed, as in the label list. Entries without a label (the test
/// list) are left out.
fn something_something(
    list: &Path,
    videos: &BTreeMap<String, PathBuf>,
    found: &mut Listing,
) -> Result<(), Error> {
    #[derive(Deserialize)]
    struct Entry {
        id: String,
        template: Option<String>,
        label: Option<String>,
    }
    let text = fs::read_to_string(list).map_err(|source| Error::Read {
        path: list.to_owned(),
        source,
    })?;
    let entries: Vec<Entry> = serde_json::from_str(&text).map_err(|_| Error::Annotation {
        path: list.to_owned(),
        entry: 0,
        problem: "expected a list of objects with id and template",
    })?;
    let Some(split) = split_of_list(list) else {
        return Ok(());
    };
    for entry in entries {
        let Some(label) = entry.template.or(entry.label) else {
            continue;
        };
        add(
            found,
            videos,
            &[entry.id],
            label.replace(['[', ']'], ""),
            split,
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests;
