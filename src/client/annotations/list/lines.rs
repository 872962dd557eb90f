//! Lists without a heading: a line is a path and a label, with white space between, as PySlowFast, MMAction2 and the reference write them.

use super::{Fault, Row, Source, text};
use crate::client::annotations::folder::Files;
use crate::client::annotations::matching::Index;

/// The rows. The label is what follows the last white space; MMAction2's `path frames label` is read, too, since the path ends at the first of them
/// that is a video's name.
pub(super) fn rows(source: &Source, files: &Files) -> Result<Vec<Row>, Fault> {
    let shape = || Fault::Shape("neither a heading nor lines of \"path label\"".to_owned());
    let text = match text(source.bytes) {
        Ok(text) => text,
        Err(Fault::Line(_, problem)) => return Err(Fault::Shape(problem)),
        Err(fault) => return Err(fault),
    };
    let index = Index::new(files);
    let mut rows = Vec::new();
    let mut known = 0;
    for (line, entry) in (1..).zip(text.lines()) {
        let entry = entry.trim();
        if entry.is_empty() {
            continue;
        }
        let Some((path, label)) = entry.rsplit_once([' ', '\t', ',']) else {
            return match known {
                0 => Err(shape()),
                _ => Err(Fault::Line(line, "expected a path and a label".to_owned())),
            };
        };
        let mut names = vec![path.trim().to_owned()];
        // The number of frames between the two.
        if let Some((path, frames)) = path.trim().rsplit_once([' ', '\t'])
            && frames.parse::<u64>().is_ok()
        {
            names.push(path.trim().to_owned());
        }
        known += usize::from(names.iter().any(|name| !index.videos(name).is_empty()));
        rows.push(Row {
            line,
            names,
            label: label.to_owned(),
            split: source.split,
        });
    }
    if known == 0 {
        return Err(shape());
    }
    Ok(rows)
}
