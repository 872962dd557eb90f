//! Finds the file that a row of a list means.
//!
//! Invariant: a row is never guessed: where more than one file could be meant and neither the split's nor the label's folder decides, the list is refused.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::folder::{Files, counted, parts, texts};
use super::list::{List, Row};
use super::{Labelled, Listing, label, split_of};
use crate::client::Error;
use crate::spec::{Split, normal_label};

/// Videos by the names that a list may call them.
#[derive(Debug, Default)]
pub(super) struct Index {
    /// Videos by the path below the folder, with and without its ending.
    paths: BTreeMap<String, Vec<usize>>,
    /// Videos by the file's name.
    names: BTreeMap<String, Vec<usize>>,
    /// Videos by the file's name without its ending.
    stems: BTreeMap<String, Vec<usize>>,
}

impl Index {
    pub(super) fn new(files: &Files) -> Self {
        let mut index = Self::default();
        for (at, path) in files.videos.iter().enumerate() {
            let whole = parts(path).join("/");
            let name = parts(path).pop().unwrap_or_default();
            if let Some((begin, _)) = whole.rsplit_once('.') {
                index.paths.entry(begin.to_owned()).or_default().push(at);
            }
            if let Some((stem, _)) = name.rsplit_once('.') {
                index.stems.entry(stem.to_owned()).or_default().push(at);
            }
            index.paths.entry(whole).or_default().push(at);
            index.names.entry(name).or_default().push(at);
        }
        index
    }

    /// The videos that a name may mean: by path, else by file name, else by file name without its ending.
    pub(super) fn videos(&self, name: &str) -> &[usize] {
        let path = name.replace('\\', "/");
        let path = path.trim_start_matches("./");
        let file = path.rsplit('/').next().unwrap_or(path);
        [
            (&self.paths, path),
            (&self.names, file),
            (&self.stems, file),
        ]
        .into_iter()
        .find_map(|(map, key)| map.get(key))
        .map_or(&[], Vec::as_slice)
    }
}

/// Finds each row's video.
pub(super) fn assign(
    root: &Path,
    files: &Files,
    lists: Vec<List>,
    found: &mut Listing,
) -> Result<(), Error> {
    let index = Index::new(files);
    let mut used = BTreeMap::new();
    for list in lists {
        let mut missing = Vec::new();
        let mut repeated = Vec::new();
        let mut elsewhere = Vec::new();
        let rows = list.rows.len();
        for row in list.rows {
            let Some(at) = choose(root, files, &list.path, &index, &row)? else {
                missing.push(looked_for(&row));
                continue;
            };
            let place = || format!("{}, line {}", root.join(&list.path).display(), row.line);
            let label = label(&row.label, place)?;
            let name = files.videos[at].display().to_string();
            if folder_split(&files.videos[at]).is_some_and(|split| split != row.split) {
                elsewhere.push(name.clone());
            }
            let uses: &mut Vec<(Split, String)> = used.entry(at).or_default();
            if uses.contains(&(row.split, label.clone())) {
                repeated.push(name);
                continue;
            }
            uses.push((row.split, label.clone()));
            found.examples.push(Labelled {
                path: root.join(&files.videos[at]),
                label,
                split: row.split,
            });
        }
        note(
            &list.path,
            rows,
            files,
            [missing, repeated, elsewhere],
            found,
        );
    }
    note_use(files, &used, found);
    Ok(())
}

fn note(
    list: &Path,
    rows: usize,
    files: &Files,
    [missing, repeated, elsewhere]: [Vec<String>; 3],
    found: &mut Listing,
) {
    let list = list.display();
    let what = match missing.len() == rows {
        false => format!("rows of {list} whose video is not in the folder; looked for"),
        true => format!(
            "rows of {list}, which are all of them, name no video of the folder (it has {}{}); looked for",
            counted(files.videos.len(), "video"),
            files
                .videos
                .first()
                .map_or_else(String::new, |path| format!(
                    ", for example {}",
                    path.display()
                )),
        ),
    };
    found.note("missing_video", what, missing);
    let what = format!("rows of {list} that say again what another row said");
    found.note("repeated_row", what, repeated);
    let what = format!("rows of {list} that were found in a folder named after another split");
    found.note("other_split", what, elsewhere);
}

/// Notes files that no row names, and files that have two labels or splits.
fn note_use(files: &Files, used: &BTreeMap<usize, Vec<(Split, String)>>, found: &mut Listing) {
    let unlisted = files.videos.iter().enumerate();
    let unlisted = unlisted.filter(|(at, _)| !used.contains_key(at));
    let unlisted = texts(unlisted.map(|(_, path)| path.clone()).collect());
    found.note("unlisted_video", "videos that no list names", unlisted);
    let twice = used.iter().filter(|(_, uses)| uses.len() > 1);
    let twice = texts(twice.map(|(at, _)| files.videos[*at].clone()).collect());
    found.note(
        "two_uses",
        "videos that the lists give two labels or put into two splits",
        twice,
    );
}

fn looked_for(row: &Row) -> String {
    let names: BTreeSet<&String> = row.names.iter().collect();
    let names: Vec<String> = names.into_iter().map(|name| format!("{name}.*")).collect();
    names.join(" or ")
}

/// The split after which one of a video's folders is named.
fn folder_split(path: &Path) -> Option<Split> {
    let mut folders = parts(path);
    folders.pop();
    folders.iter().find_map(|folder| split_of(folder))
}

/// The video that a row means; `None` when there is none.
fn choose(
    root: &Path,
    files: &Files,
    list: &Path,
    index: &Index,
    row: &Row,
) -> Result<Option<usize>, Error> {
    let found = row.names.iter().map(|name| index.videos(name));
    let Some(found) = found.into_iter().find(|found| !found.is_empty()) else {
        return Ok(None);
    };
    let mut candidates = found.to_vec();
    let own_split = |at: &usize| folder_split(&files.videos[*at]) == Some(row.split);
    let own_label = |at: &usize| {
        let mut folders = parts(&files.videos[*at]);
        folders.pop();
        let label = normal_label(&row.label).ok();
        folders
            .iter()
            .any(|folder| normal_label(folder).ok() == label)
    };
    narrow(&mut candidates, own_split);
    narrow(&mut candidates, own_label);
    match candidates.as_slice() {
        [one] => Ok(Some(*one)),
        several => Err(Error::List {
            path: root.join(list),
            line: row.line,
            problem: format!(
                "{} may be any of {}",
                row.names.last().map_or("", String::as_str),
                texts(several.iter().map(|&at| files.videos[at].clone()).collect()).join(", ")
            ),
        }),
    }
}

/// Keeps the candidates for which something speaks, if there are any.
fn narrow(candidates: &mut Vec<usize>, speaks: impl Fn(&usize) -> bool) {
    if candidates.len() > 1 && candidates.iter().any(&speaks) {
        candidates.retain(speaks);
    }
}
