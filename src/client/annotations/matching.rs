//! Finds the file that a row of a list means.
//!
//! Invariant: a row is never guessed: where more than one file could be meant and neither the split's nor the label's folder decides, the list is refused; a
//! file that another row means rather, or that lies in the folder of another split or label, is not taken.

mod index;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use super::folder::{Files, counted, parts, texts, without_ending};
use super::list::{List, Row};
use super::{Labelled, Listing, labels, split_of};
use crate::client::Error;
use crate::spec::{ExampleLabels, LabelKind, Split, normal_label};
pub(super) use index::Index;
use index::{Rank, normal};

/// The file that a row seems to mean.
#[derive(Debug, Clone, Copy)]
struct Choice {
    at: usize,
    /// Whether the row names the file's folders, and is believed.
    is_path: bool,
    /// Whether another row that means the same file speaks against it.
    is_doubtful: bool,
}

/// The outcome of a row.
enum Match {
    Taken(usize),
    Missing,
    /// A file has the name, but is another one.
    Doubtful(usize),
}

/// Finds each row's video.
pub(super) fn assign(
    root: &Path,
    files: &Files,
    lists: Vec<List>,
    found: &mut Listing,
) -> Result<(), Error> {
    let folders = Folders::new(files, &lists);
    let index = Index::new(files);
    let mut choices = Vec::new();
    let mut claims: BTreeMap<usize, BTreeSet<String>> = BTreeMap::new();
    for list in &lists {
        for row in &list.rows {
            let choice = choose(root, files, &list.path, &index, row)?;
            if let Some(choice) = choice {
                claims.entry(choice.at).or_default().insert(row.key());
            }
            choices.push(choice);
        }
    }
    let mut choices = choices.into_iter();
    let mut used = Used::default();
    for list in lists {
        let mut notes = Notes::default();
        let rows = list.rows.len();
        for row in list.rows {
            let outcome = match choices.next().flatten() {
                None => Match::Missing,
                Some(choice) => {
                    let others = claims.get(&choice.at).map_or(0, BTreeSet::len);
                    let is_others = choice.is_doubtful && others > 1;
                    match is_others || (!choice.is_path && folders.contradict(choice.at, &row)) {
                        true => Match::Doubtful(choice.at),
                        false => Match::Taken(choice.at),
                    }
                }
            };
            let into = (&mut used, &mut notes, &mut *found);
            take(root, files, (&list.path, row), outcome, into)?;
        }
        notes.write(&list.path, rows, files, found);
    }
    note_use(files, &used, found);
    match found.kind {
        LabelKind::Single => Ok(()),
        LabelKind::Multi => add_up(root, found),
    }
}

/// Labels and splits that the rows have given to each video.
type Used = BTreeMap<usize, Vec<(Split, ExampleLabels)>>;

fn take(
    root: &Path,
    files: &Files,
    (list, row): (&Path, Row),
    outcome: Match,
    (used, notes, found): (&mut Used, &mut Notes, &mut Listing),
) -> Result<(), Error> {
    let name = |at: usize| files.videos[at].display().to_string();
    let at = match outcome {
        Match::Taken(at) => at,
        Match::Missing => {
            notes.missing.push(looked_for(&row));
            return Ok(());
        }
        Match::Doubtful(at) => {
            let line = format!("line {}: {} is not {}", row.line, row.key(), name(at));
            notes.doubtful.push(line);
            return Ok(());
        }
    };
    let place = || format!("{}, line {}", root.join(list).display(), row.line);
    let labels = labels(&row.label, found.kind, place)?;
    if folder_split(&files.videos[at]).is_some_and(|split| split != row.split) {
        notes.elsewhere.push(name(at));
    }
    let uses = used.entry(at).or_default();
    if uses.contains(&(row.split, labels.clone())) {
        notes.repeated.push(name(at));
        return Ok(());
    }
    uses.push((row.split, labels.clone()));
    found.examples.push(Labelled {
        path: root.join(&files.videos[at]),
        labels,
        split: row.split,
    });
    Ok(())
}

/// Makes the rows of one video and split one example, which has the labels of all of them. The first row's place is kept.
fn add_up(root: &Path, found: &mut Listing) -> Result<(), Error> {
    let mut places: HashMap<(PathBuf, Split), usize> = HashMap::new();
    let mut examples: Vec<Labelled> = Vec::with_capacity(found.examples.len());
    for own in std::mem::take(&mut found.examples) {
        let place = *places
            .entry((own.path.clone(), own.split))
            .or_insert(examples.len());
        let Some(first) = examples.get_mut(place) else {
            examples.push(own);
            continue;
        };
        let both = first.labels.iter().chain(own.labels.iter());
        let both = ExampleLabels::of(both).map_err(|invalid| Error::Label {
            place: format!("the rows of {} in {}", own.path.display(), root.display()),
            problem: invalid.problem,
        })?;
        first.labels = both;
    }
    found.examples = examples;
    Ok(())
}

/// What is noted of a list.
#[derive(Default)]
struct Notes {
    missing: Vec<String>,
    doubtful: Vec<String>,
    repeated: Vec<String>,
    elsewhere: Vec<String>,
}

impl Notes {
    fn write(self, list: &Path, rows: usize, files: &Files, found: &mut Listing) {
        let list = list.display();
        let what = match self.missing.len() == rows {
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
        found.note("missing_video", what, self.missing);
        let what = format!(
            "rows of {list} whose video is not in the folder: the file of that name belongs to another row, split or label"
        );
        found.note("doubtful_video", what, self.doubtful);
        let what = format!("rows of {list} that say again what another row said");
        found.note("repeated_row", what, self.repeated);
        let what = format!("rows of {list} that were found in a folder named after another split");
        found.note("other_split", what, self.elsewhere);
    }
}

/// Notes files that no row names, and files that have two labels or splits.
fn note_use(files: &Files, used: &Used, found: &mut Listing) {
    let unlisted = files.videos.iter().enumerate();
    let unlisted = unlisted.filter(|(at, _)| !used.contains_key(at));
    let unlisted = texts(unlisted.map(|(_, path)| path.clone()).collect());
    found.note("unlisted_video", "videos that no list names", unlisted);
    let kind = found.kind;
    let is_twice = |uses: &[(Split, ExampleLabels)]| match kind {
        LabelKind::Single => uses.len() > 1,
        // Labels add up, splits do not.
        LabelKind::Multi => uses.windows(2).any(|pair| pair[0].0 != pair[1].0),
    };
    let twice = used.iter().filter(|(_, uses)| is_twice(uses));
    let twice = texts(twice.map(|(at, _)| files.videos[*at].clone()).collect());
    found.note(
        "two_uses",
        "videos that the lists give two labels or put into two splits",
        twice,
    );
}

fn looked_for(row: &Row) -> String {
    let names: BTreeSet<&String> = row.names.iter().chain(&row.whole).collect();
    let names: Vec<String> = names
        .into_iter()
        .map(|name| match without_ending(name) {
            Some(_) => name.clone(),
            None => format!("{name}.*"),
        })
        .collect();
    names.join(" or ")
}

/// The split after which one of a video's folders is named.
fn folder_split(path: &Path) -> Option<Split> {
    let mut folders = parts(path);
    folders.pop();
    folders.iter().find_map(|folder| split_of(folder))
}

/// The labels after which the folders of a video are named, whatever the folders are.
fn folder_labels(path: &Path) -> impl Iterator<Item = String> {
    let mut folders = parts(path);
    folders.pop();
    folders
        .into_iter()
        .filter_map(|name| normal_label(&name).ok())
}

/// Splits and labels after which folders with videos are named.
struct Folders {
    splits: BTreeSet<Split>,
    labels: BTreeSet<String>,
    /// By video: the split of its folder, and the labels of the lists that its folders are.
    of: Vec<(Option<Split>, Vec<String>)>,
}

impl Folders {
    fn new(files: &Files, lists: &[List]) -> Self {
        let rows = lists.iter().flat_map(|list| &list.rows);
        let known: BTreeSet<String> = rows
            .filter_map(|row| normal_label(&row.label).ok())
            .collect();
        let of: Vec<_> = files
            .videos
            .iter()
            .map(|path| {
                let labels = folder_labels(path).filter(|label| known.contains(label));
                (folder_split(path), labels.collect())
            })
            .collect();
        Self {
            splits: of.iter().filter_map(|(split, _)| *split).collect(),
            labels: of
                .iter()
                .flat_map(|(_, labels): &(_, Vec<String>)| labels.clone())
                .collect(),
            of,
        }
    }

    /// Whether a video lies in the folder of another split or label than the row's, although the row's has a folder.
    fn contradict(&self, at: usize, row: &Row) -> bool {
        let Some((split, labels)) = self.of.get(at) else {
            return false;
        };
        let other_split =
            split.is_some_and(|split| split != row.split) && self.splits.contains(&row.split);
        let own = normal_label(&row.label).unwrap_or_default();
        let other_label =
            !labels.is_empty() && !labels.contains(&own) && self.labels.contains(&own);
        other_split || other_label
    }
}

/// The video that a row seems to mean; `None` when there is none.
fn choose(
    root: &Path,
    files: &Files,
    list: &Path,
    index: &Index,
    row: &Row,
) -> Result<Option<Choice>, Error> {
    let names = row.names.iter().map(|name| (name, false));
    let mut names = names.chain(row.whole.iter().map(|name| (name, true)));
    let found = names.find_map(|(name, is_whole)| Some((index.find(name)?, is_whole)));
    let Some(((mut candidates, rank), is_whole)) = found else {
        return Ok(None);
    };
    let own_label = normal_label(&row.label).ok();
    narrow(&mut candidates, |at| {
        folder_split(&files.videos[*at]) == Some(row.split)
    });
    narrow(&mut candidates, |at| {
        folder_labels(&files.videos[*at]).any(|label| Some(label) == own_label)
    });
    match candidates.as_slice() {
        &[at] => Ok(Some(Choice {
            at,
            is_path: rank == Rank::Path,
            is_doubtful: is_whole || rank == Rank::Doubtful,
        })),
        _ if rank == Rank::Doubtful => Ok(None),
        several => Err(Error::List {
            path: root.join(list),
            line: row.line,
            problem: format!(
                "{} may be any of {}",
                row.names
                    .last()
                    .or(row.whole.as_ref())
                    .map_or("", String::as_str),
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

impl Row {
    /// What the row names, to tell it from others.
    fn key(&self) -> String {
        normal(
            self.names
                .first()
                .or(self.whole.as_ref())
                .map_or("", String::as_str),
        )
    }
}

#[cfg(test)]
mod tests;
