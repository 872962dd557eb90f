//! The official split files of UCF101 (`trainlist01.txt`, `testlist01.txt`) and HMDB51 (`brush_hair_test_split1.txt`).
//!
//! Invariant: both data sets come with several splits that overlap. The files of one number are read, the lowest, and the others are noted.

use std::path::Path;

use super::{Fault, List, Row, bytes, text};
use crate::client::Error;
use crate::client::annotations::folder::{Files, texts};
use crate::client::annotations::{Listing, name_of};
use crate::spec::Split;

/// A split file, by its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::client::annotations) enum Official {
    /// Lines `Class/video.avi`, in training lists with the number of the class.
    Ucf101 { split: Split, number: u32 },
    /// Lines `video.avi 1`: 1 is training, 2 is test, 0 is neither.
    Hmdb51 { label: String, number: u32 },
}

impl Official {
    /// The file of this name; `None` for any other file.
    pub(in crate::client::annotations) fn of(name: &str) -> Option<Self> {
        let stem = name.strip_suffix(".txt")?;
        let begins = [("trainlist", Split::Train), ("testlist", Split::Test)];
        for (begin, split) in begins {
            if let Some(number) = stem.strip_prefix(begin) {
                let number = number.parse().ok()?;
                return Some(Self::Ucf101 { split, number });
            }
        }
        let (label, number) = stem.rsplit_once("_test_split")?;
        Some(Self::Hmdb51 {
            label: label.to_owned(),
            number: number.parse().ok()?,
        })
    }

    fn number(&self) -> u32 {
        match self {
            Self::Ucf101 { number, .. } | Self::Hmdb51 { number, .. } => *number,
        }
    }

    /// The rows of the file, and the videos that belong to neither split.
    fn rows(&self, text: &str) -> Result<(Vec<Row>, Vec<String>), Fault> {
        let mut rows = Vec::new();
        let mut unused = Vec::new();
        for (line, entry) in (1..).zip(text.lines()) {
            let mut words = entry.split_whitespace();
            let Some(video) = words.next() else {
                continue;
            };
            let (label, split) = match self {
                Self::Ucf101 { split, .. } => {
                    let class = video.rsplit_once('/').map(|(folders, _)| folders);
                    let class = class.and_then(|folders| folders.rsplit('/').next());
                    let problem = || Fault::Line(line, "expected Class/video.avi".to_owned());
                    (class.ok_or_else(problem)?, *split)
                }
                Self::Hmdb51 { label, .. } => match words.next() {
                    Some("1") => (label.as_str(), Split::Train),
                    Some("2") => (label.as_str(), Split::Test),
                    Some("0") => {
                        unused.push(video.to_owned());
                        continue;
                    }
                    _ => {
                        let problem = "expected a video and 0, 1 (train) or 2 (test)";
                        return Err(Fault::Line(line, problem.to_owned()));
                    }
                },
            };
            rows.push(Row {
                line,
                names: vec![video.to_owned()],
                whole: None,
                label: label.to_owned(),
                split,
            });
        }
        Ok((rows, unused))
    }
}

/// Reads the split files of the lowest number.
pub(super) fn read(
    root: &Path,
    files: &Files,
    found: &mut Listing,
    lists: &mut Vec<List>,
) -> Result<(), Error> {
    let official = files.lists.iter().filter_map(|path| {
        let official = Official::of(&name_of(path))?;
        Some((path, official))
    });
    let official: Vec<_> = official.collect();
    let Some(lowest) = official.iter().map(|(_, file)| file.number()).min() else {
        return Ok(());
    };
    let mut unused = Vec::new();
    let mut others = Vec::new();
    for (path, file) in official {
        if file.number() != lowest {
            others.push(path.clone());
            continue;
        }
        let bytes = bytes(&root.join(path))?;
        match text(&bytes).and_then(|text| file.rows(&text)) {
            Ok((rows, neither)) => {
                unused.extend(neither);
                lists.push(List {
                    path: path.clone(),
                    rows,
                });
            }
            Err(Fault::Line(line, problem) | Fault::Split(line, problem)) => {
                found.broken.push(Error::List {
                    path: root.join(path),
                    line,
                    problem,
                });
            }
            Err(Fault::Shape(problem)) => found.broken.push(Error::List {
                path: root.join(path),
                line: 1,
                problem,
            }),
        }
    }
    found.note(
        "unused_entry",
        format!("videos that split {lowest} uses neither for training nor for testing"),
        unused,
    );
    found.note(
        "other_split_number",
        format!("lists of other splits, which overlap with split {lowest}; keep only theirs to read them"),
        texts(others),
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn split_files_are_known_by_name() {
        let ucf = |split, number| Some(Official::Ucf101 { split, number });
        assert_eq!(Official::of("trainlist01.txt"), ucf(Split::Train, 1));
        assert_eq!(Official::of("testlist03.txt"), ucf(Split::Test, 3));
        let hmdb = Official::Hmdb51 {
            label: "brush_hair".to_owned(),
            number: 2,
        };
        assert_eq!(Official::of("brush_hair_test_split2.txt"), Some(hmdb));
        for other in [
            "hmdb51_test_split_1_videos.txt",
            "train.txt",
            "trainlist.txt",
            "trainlist01.csv",
        ] {
            assert_eq!(Official::of(other), None, "{other}");
        }
    }
}
