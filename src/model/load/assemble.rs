//! From a checkpoint's own tensors to canonical ones: the reference's names and shapes, f32.
//!
//! Invariant: strict. What comes out is exactly what was asked for; a tensor that is missing, unexpected, wrongly shaped, not of floats or not finite is
//! an error that names it. All names and shapes are checked before any value is read, so memory is bounded by the checked file sizes.

use std::collections::HashSet;

use rayon::prelude::*;

use super::Error;
use super::checkpoint::Checkpoint;
use super::file::Archive;
use super::header::Entry;
use super::values::{Float, non_finite};
use crate::model::Tensors;

/// A canonical tensor, and the stored ones that make it when they are joined along the first axis.
pub(super) struct Wanted {
    pub(super) name: String,
    pub(super) shape: Vec<usize>,
    pub(super) parts: Vec<String>,
}

impl Wanted {
    /// The shape of each part.
    fn part_shape(&self) -> Vec<usize> {
        let mut shape = self.shape.clone();
        if let Some(first) = shape.first_mut() {
            *first /= self.parts.len().max(1);
        }
        shape
    }
}

/// Reads all that is wanted; stored tensors that are `ignored` by name may be there too, others not.
pub(super) fn assemble(
    checkpoint: &Checkpoint,
    wanted: &[Wanted],
    ignored: impl Fn(&str) -> bool,
) -> Result<Tensors, Error> {
    for want in wanted {
        check_parts(checkpoint, want)?;
    }
    let used: HashSet<&str> = wanted
        .iter()
        .flat_map(|want| want.parts.iter().map(String::as_str))
        .collect();
    if let Some(name) = checkpoint
        .names()
        .find(|name| !used.contains(name) && !ignored(name))
    {
        return Err(Error::Extra {
            path: checkpoint.path(),
            name: name.to_owned(),
        });
    }
    // Results stay in order, so that the same file gives the same error whatever the threads do.
    let read: Vec<Result<_, Error>> = wanted
        .par_iter()
        .map(|want| Ok((want.name.clone(), read(checkpoint, want)?)))
        .collect();
    read.into_iter().collect()
}

fn check_parts(checkpoint: &Checkpoint, want: &Wanted) -> Result<(), Error> {
    let expected = want.part_shape();
    for name in &want.parts {
        let (archive, entry, _) = find(checkpoint, name)?;
        if entry.shape != expected {
            return Err(Error::Shape {
                path: archive.path().to_owned(),
                name: name.clone(),
                expected,
                got: entry.shape.clone(),
            });
        }
    }
    Ok(())
}

fn read(checkpoint: &Checkpoint, want: &Wanted) -> Result<(Vec<usize>, Vec<f32>), Error> {
    let mut values = Vec::with_capacity(want.shape.iter().product());
    for name in &want.parts {
        let (archive, entry, float) = find(checkpoint, name)?;
        let begin = values.len();
        float.decode(archive.data(entry), &mut values);
        if let Some((at, value)) = non_finite(&values[begin..]) {
            return Err(Error::NonFinite {
                path: archive.path().to_owned(),
                name: name.clone(),
                at,
                value,
            });
        }
    }
    Ok((want.shape.clone(), values))
}

fn find<'a>(
    checkpoint: &'a Checkpoint,
    name: &str,
) -> Result<(&'a Archive, &'a Entry, Float), Error> {
    let Some((archive, entry)) = checkpoint.find(name) else {
        return Err(Error::Missing {
            path: checkpoint.path(),
            name: name.to_owned(),
        });
    };
    match Float::of(entry.dtype) {
        Some(float) => Ok((archive, entry, float)),
        None => Err(Error::Dtype {
            path: archive.path().to_owned(),
            name: name.to_owned(),
            dtype: entry.dtype,
        }),
    }
}
