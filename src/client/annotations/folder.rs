//! The files of a folder: videos, possible lists, and the rest, which is counted; and the layout `<split>/<label>/<video>`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Component, Path, PathBuf};

use super::list::{is_table, splits};
use super::{Labelled, Listing, labels, name_of, split_of, split_words};
use crate::client::Error;
use crate::spec::Split;

/// File name endings that are tried as videos; what a file is, the server finds by its content.
const VIDEOS: &[&str] = &[
    "mp4", "m4v", "mov", "qt", "3gp", "3g2", "mkv", "webm", "avi", "ts", "mts", "m2ts", "flv",
    "f4v", "mpg", "mpeg", "m2v", "wmv", "asf", "ogv", "vob", "dv",
];

/// Endings of what usually lies beside videos.
const COMPANIONS: &[&str] = &[
    "txt", "md", "json", "csv", "tsv", "xml", "yaml", "yml", "html", "pdf", "log", "nfo", "jpg",
    "jpeg", "png", "gif", "bmp", "webp", "srt", "vtt", "sub", "ass", "idx", "wav", "mp3", "m4a",
    "py", "sh", "pkl", "npy", "db", "ini",
];

/// Folders of systems and archives that hold no one's videos.
const SYSTEM: &[&str] = &[
    "@eaDir",
    "__MACOSX",
    "$RECYCLE.BIN",
    "System Volume Information",
    "lost+found",
];

/// Folders within folders that are looked into: enough for `videos/<split>/<label>/`, and an end for links that lead back.
const DEPTH: usize = 8;

/// The files of a folder, by paths below it, in order.
#[derive(Debug, Default)]
pub(super) struct Files {
    pub(super) videos: Vec<PathBuf>,
    /// Files at the top that may be annotation lists.
    pub(super) lists: Vec<PathBuf>,
    folders: Vec<PathBuf>,
    unknown: Vec<PathBuf>,
    companions: Vec<PathBuf>,
    hidden: Vec<PathBuf>,
    too_deep: Vec<PathBuf>,
}

/// Looks through a folder.
pub(super) fn walk(root: &Path) -> Result<Files, Error> {
    let mut files = Files::default();
    enter(root, Path::new(""), 0, &mut files)?;
    Ok(files)
}

fn enter(root: &Path, below: &Path, depth: usize, files: &mut Files) -> Result<(), Error> {
    let folder = root.join(below);
    let error = |source| Error::Read {
        path: folder.clone(),
        source,
    };
    let mut paths = fs::read_dir(&folder)
        .map_err(error)?
        .map(|entry| entry.map(|entry| below.join(entry.file_name())))
        .collect::<Result<Vec<_>, _>>()
        .map_err(error)?;
    paths.sort();
    for path in paths {
        let name = name_of(&path);
        let is_folder = root.join(&path).is_dir();
        if name.starts_with('.') || (is_folder && SYSTEM.contains(&name.as_str())) {
            files.hidden.push(path);
        } else if !is_folder {
            files.sort(root, path, depth);
        } else if depth == DEPTH {
            files.too_deep.push(path);
        } else {
            files.folders.push(path.clone());
            enter(root, &path, depth + 1, files)?;
        }
    }
    Ok(())
}

impl Files {
    fn sort(&mut self, root: &Path, path: PathBuf, depth: usize) {
        if is_list(root, &path, depth) {
            self.lists.push(path);
        } else if VIDEOS.iter().any(|ending| has_ending(&path, ending)) {
            self.videos.push(path);
        } else if COMPANIONS.iter().any(|ending| has_ending(&path, ending)) {
            self.companions.push(path);
        } else {
            self.unknown.push(path);
        }
    }

    /// Notes what is neither a video nor a list.
    pub(super) fn note_others(self, found: &mut Listing) {
        let endings: BTreeSet<String> = self.unknown.iter().map(|path| ending(path)).collect();
        let endings: Vec<String> = endings.into_iter().collect();
        let what = format!("files left out for their endings ({})", endings.join(", "));
        found.note("unknown_ending", what, texts(self.unknown));
        found.note(
            "too_deep",
            "folders that lie too deep to be looked into",
            texts(self.too_deep),
        );
        found.note(
            "companion",
            "texts, pictures and the like beside the videos",
            texts(self.companions),
        );
        found.note(
            "hidden",
            "hidden files and folders of the system",
            texts(self.hidden),
        );
    }
}

/// Whether a file may be an annotation list: by its name at the top, or by its heading at the top and in the folder of a split, where Hugging Face's data
/// sets have a `metadata.csv`.
fn is_list(root: &Path, path: &Path, depth: usize) -> bool {
    let ends = |endings: &[&str]| endings.iter().any(|ending| has_ending(path, ending));
    let is_named = ends(&["csv", "json", "txt", "tsv", "list"])
        && split_words(&name_of(path)).next().is_some();
    let is_near = depth == 0 || (depth == 1 && split_of_folder(path).is_some());
    // The split files of UCF101 and HMDB51 unpack into a folder of their own.
    (depth == 0 && is_named)
        || (depth <= 1 && splits::Official::of(&name_of(path)).is_some())
        || (is_near && ends(&["csv", "tsv"]) && is_table(&root.join(path)))
}

/// The split that the folder of a file is named after.
pub(super) fn split_of_folder(path: &Path) -> Option<Split> {
    path.parent().and_then(|folder| split_of(&name_of(folder)))
}

/// A name without the ending of a video; `None` when it has none.
pub(super) fn without_ending(name: &str) -> Option<&str> {
    let (begin, ending) = name.rsplit_once('.')?;
    let is_video = VIDEOS.iter().any(|own| ending.eq_ignore_ascii_case(own));
    is_video.then_some(begin)
}

fn has_ending(path: &Path, wanted: &str) -> bool {
    path.extension()
        .is_some_and(|ending| ending.eq_ignore_ascii_case(wanted))
}

fn ending(path: &Path) -> String {
    path.extension().map_or_else(
        || "none".to_owned(),
        |ending| format!(".{}", ending.to_string_lossy()),
    )
}

pub(super) fn texts(paths: Vec<PathBuf>) -> Vec<String> {
    paths
        .into_iter()
        .map(|path| path.display().to_string())
        .collect()
}

/// A count with its noun.
pub(super) fn counted(count: usize, noun: &str) -> String {
    match count {
        1 => format!("1 {noun}"),
        more => format!("{more} {noun}s"),
    }
}

/// The names of the folders and the file that a path goes through.
pub(super) fn parts(path: &Path) -> Vec<String> {
    path.components()
        .filter_map(|part| match part {
            Component::Normal(name) => Some(name.to_string_lossy().into_owned()),
            Component::Prefix(_)
            | Component::RootDir
            | Component::CurDir
            | Component::ParentDir => None,
        })
        .collect()
}

/// Takes the videos at `<split>/<label>/<video>` and notes all others.
pub(super) fn labelled(root: &Path, files: &Files, found: &mut Listing) -> Result<(), Error> {
    let mut deeper = Vec::new();
    let mut higher = Vec::new();
    let mut strange: BTreeMap<String, usize> = BTreeMap::new();
    let mut used = BTreeSet::new();
    for path in &files.videos {
        let parts = parts(path);
        let split = parts.first().and_then(|name| split_of(name));
        match (split, parts.as_slice()) {
            (Some(split), [_, named, _]) => {
                used.insert(path.parent().map(Path::to_owned).unwrap_or_default());
                found.examples.push(Labelled {
                    path: root.join(path),
                    labels: labels(named, found.kind, || {
                        format!("the folder {}/{named}", parts[0])
                    })?,
                    split,
                });
            }
            (Some(_), [_, _, _, ..]) => deeper.push(path.clone()),
            (None, [folder, _, ..]) => {
                *strange.entry(folder.clone()).or_default() += 1;
            }
            (_, _) => higher.push(path.clone()),
        }
    }
    let empty: Vec<PathBuf> = files
        .folders
        .iter()
        .filter(|folder| {
            let parts = parts(folder);
            parts.len() == 2 && split_of(&parts[0]).is_some() && !used.contains(*folder)
        })
        .cloned()
        .collect();
    found.note(
        "too_deep_video",
        "videos deeper than <split>/<label>/<video>",
        texts(deeper),
    );
    found.note(
        "unlabelled_video",
        "videos outside <split>/<label>/",
        texts(higher),
    );
    found.note(
        "unknown_split",
        "folders with videos whose names are no split (use train, val or test)",
        strange
            .into_iter()
            .map(|(folder, videos)| format!("{folder} ({})", counted(videos, "video")))
            .collect(),
    );
    found.note(
        "empty_label",
        "label folders in which no video was found",
        texts(empty),
    );
    Ok(())
}
