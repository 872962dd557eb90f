//! Copies of one video under several labels, as folders have them whose labels do not exclude one another.
//!
//! Invariant: files with equal bytes in one split become one example, at the place of the first of them; a file that cannot be read stays, and is refused
//! when it is uploaded.

use std::collections::HashMap;

use futures::{StreamExt, stream};

use super::super::annotations::{Labelled, Listing};
use super::super::{Error, upload};
use crate::spec::{ExampleLabels, Split};

/// Makes files with equal bytes one example with the labels of all; so many files are read at a time.
///
/// # Errors
/// When an example would have more labels than one may have.
pub(super) async fn merge(found: &mut Listing, parallel: usize) -> Result<(), Error> {
    let files = std::mem::take(&mut found.examples);
    let digests: Vec<Option<Vec<u8>>> = stream::iter(&files)
        .map(|file| async move {
            let source = upload::Source::open(&file.path).await.ok()?;
            Some(source.sha256)
        })
        .buffered(parallel)
        .collect()
        .await;
    let mut places: HashMap<(Vec<u8>, Split), usize> = HashMap::new();
    let mut examples: Vec<Labelled> = Vec::with_capacity(files.len());
    for (file, digest) in files.into_iter().zip(digests) {
        let place = digest.map(|digest| {
            let next = examples.len();
            *places.entry((digest, file.split)).or_insert(next)
        });
        let Some(first) = place.and_then(|place| examples.get_mut(place)) else {
            examples.push(file);
            continue;
        };
        let both = first.labels.iter().chain(file.labels.iter());
        first.labels = ExampleLabels::of(both).map_err(|invalid| Error::Label {
            place: format!("the copies of {}", first.path.display()),
            problem: invalid.problem,
        })?;
    }
    found.examples = examples;
    Ok(())
}
