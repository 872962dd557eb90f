//! A checkpoint that was understood: where each canonical tensor (the reference's names and shapes, f32) comes from.
//!
//! Invariant: strict. A plan exists only when every tensor is there with its shape in a float format and none is left over, so memory is bounded by
//! checked file sizes before any value is read; values that are not finite are refused, by name, when they are read.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::Path;

use rayon::prelude::*;

use super::Error;
use super::checkpoint::Checkpoint;
use super::decide::{Constants, Decision, Geometry, Overrides};
use super::digest;
use super::file::Archive;
use super::header::Entry;
use super::naming::Naming;
use super::values::{Float, aligned, non_finite};
use crate::spec::Digest;
use crate::{BackboneConfig, Tensors};

/// A canonical tensor, and the stored tensors that are joined along the first axis to make it.
#[derive(Debug)]
struct Expected {
    shape: Vec<usize>,
    parts: Vec<(String, Vec<usize>)>,
}

/// What a family makes of a checkpoint, before it is checked.
pub(super) struct Draft<'a> {
    /// Path that was opened.
    pub(super) path: &'a Path,
    /// The file that says the sizes, for messages.
    pub(super) sizes_in: &'a Path,
    pub(super) family: &'static str,
    pub(super) geometry: Geometry,
    pub(super) constants: Constants,
    pub(super) checkpoint: Checkpoint,
    pub(super) naming: Naming,
}

/// A backbone that can be read.
#[derive(Debug)]
pub struct Plan {
    name: String,
    family: &'static str,
    config: BackboneConfig,
    decisions: Vec<Decision>,
    checkpoint: Checkpoint,
    wanted: BTreeMap<String, Expected>,
    besides: usize,
}

impl Plan {
    /// Decides what the tensors do not say, then checks names, shapes and formats; stored tensors that the family has besides the vision tower are
    /// allowed, others are not.
    pub(super) fn new(draft: Draft<'_>, overrides: &Overrides) -> Result<Self, Error> {
        let Draft {
            path,
            sizes_in,
            family,
            geometry,
            constants,
            checkpoint,
            naming,
        } = draft;
        let (config, decisions) = constants.decide(path, geometry, overrides)?;
        config.validate().map_err(|source| Error::Config {
            path: sizes_in.to_owned(),
            source,
        })?;
        let wanted: BTreeMap<String, Expected> = config
            .tensors()
            .into_iter()
            .map(|(name, shape)| {
                let parts = naming.stored(&name, &shape);
                (name, Expected { shape, parts })
            })
            .collect();
        for want in wanted.values() {
            check_parts(&checkpoint, want)?;
        }
        let parts = wanted.values().flat_map(|want| &want.parts);
        let used: HashSet<&str> = parts.map(|(name, _)| name.as_str()).collect();
        let mut besides = 0;
        for name in checkpoint.names().filter(|name| !used.contains(name)) {
            if !naming.beside(name) {
                return Err(Error::Extra {
                    path: checkpoint.path(),
                    name: name.to_owned(),
                });
            }
            besides += 1;
        }
        let name = path.file_name().unwrap_or(path.as_os_str());
        Ok(Self {
            name: name.to_string_lossy().into_owned(),
            family,
            config,
            decisions,
            checkpoint,
            wanted,
            besides,
        })
    }

    /// Name of the checkpoint: the last part of its path.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Family of the checkpoint: `hf_clip`, `hf_vit`, `open_clip`, `openai_clip`, `timm_vit` or `reference`.
    pub fn family(&self) -> &'static str {
        self.family
    }

    /// Sizes and constants of the backbone.
    pub fn config(&self) -> &BackboneConfig {
        &self.config
    }

    /// What was decided, and from what.
    pub fn decisions(&self) -> &[Decision] {
        &self.decisions
    }

    /// Files of the checkpoint.
    pub fn files(&self) -> &[Archive] {
        self.checkpoint.files()
    }

    /// Number of tensors that the family has besides the vision tower; they are not read.
    pub fn besides(&self) -> usize {
        self.besides
    }

    /// Format of the files, for display.
    pub fn format(&self) -> String {
        match self.files() {
            [only] => only.format().to_owned(),
            several => format!(
                "{} in {} shards",
                several.first().map_or("", Archive::format),
                several.len()
            ),
        }
    }

    /// The float formats of the vision tower's tensors: `f32`, or `f16, f32`.
    pub fn stored_as(&self) -> String {
        let parts = self.wanted.values().flat_map(|want| &want.parts);
        let floats: BTreeSet<&str> = parts
            .filter_map(|(name, _)| find(&self.checkpoint, name).ok())
            .map(|(.., float)| float.name())
            .collect();
        floats.into_iter().collect::<Vec<_>>().join(", ")
    }

    /// Number of weights.
    pub fn parameters(&self) -> u64 {
        let sizes = self.wanted.values().map(|want| elements(&want.shape));
        sizes.map(|size| size as u64).sum()
    }

    /// A tensor's values, row-major; borrowed from the file where it stores them in the needed form.
    ///
    /// # Errors
    /// When the model has no such tensor, or a value is not finite.
    pub fn tensor(&self, name: &str) -> Result<Cow<'_, [f32]>, Error> {
        let missing = || Error::Missing {
            path: self.checkpoint.path(),
            name: name.to_owned(),
        };
        let want = self.wanted.get(name).ok_or_else(missing)?;
        if let [(part, _)] = want.parts.as_slice() {
            let (archive, entry, float) = find(&self.checkpoint, part)?;
            if float == Float::F32
                && entry.strides.is_none()
                && let Some(values) = aligned(archive.data(entry))
            {
                finite(archive, part, values)?;
                return Ok(Cow::Borrowed(values));
            }
        }
        let mut values = Vec::with_capacity(elements(&want.shape));
        for (part, _) in &want.parts {
            append(&self.checkpoint, part, &mut values)?;
        }
        Ok(Cow::Owned(values))
    }

    /// Says that a tensor is no longer needed.
    pub(crate) fn release(&self, name: &str) {
        for (part, _) in self
            .wanted
            .get(name)
            .into_iter()
            .flat_map(|want| &want.parts)
        {
            if let Some((archive, entry)) = self.checkpoint.find(part) {
                archive.release(entry);
            }
        }
    }

    /// The backbone's identity; every value is read and checked, on all cores.
    ///
    /// # Errors
    /// Names the first tensor, by name, with a value that is not finite.
    pub fn digest(&self) -> Result<Digest, Error> {
        // Results stay in order, so that the same file gives the same error whatever the threads do.
        let digests: Vec<Result<Digest, Error>> = self
            .wanted
            .par_iter()
            .map(|(name, want)| {
                let values = self.tensor(name)?;
                let digest = digest::of_tensor(name, &want.shape, &values);
                drop(values);
                self.release(name);
                Ok(digest)
            })
            .collect();
        let digests = digests.into_iter().collect::<Result<Vec<_>, _>>()?;
        Ok(digest::of_model(&self.config, &digests))
    }

    /// Every tensor, by name.
    ///
    /// # Errors
    /// Same as [`Plan::digest`].
    pub fn tensors(&self) -> Result<Tensors, Error> {
        let read: Vec<Result<_, Error>> = self
            .wanted
            .par_iter()
            .map(|(name, want)| {
                let values = self.tensor(name)?.into_owned();
                Ok((name.clone(), (want.shape.clone(), values)))
            })
            .collect();
        read.into_iter().collect()
    }

    /// A tensor's shape.
    pub(crate) fn shape(&self, name: &str) -> Option<&[usize]> {
        Some(&self.wanted.get(name)?.shape)
    }
}

fn elements(shape: &[usize]) -> usize {
    shape.iter().product()
}

fn check_parts(checkpoint: &Checkpoint, want: &Expected) -> Result<(), Error> {
    for (name, expected) in &want.parts {
        let (archive, entry, _) = find(checkpoint, name)?;
        if entry.shape != *expected {
            return Err(Error::Shape {
                path: archive.path().to_owned(),
                name: name.clone(),
                expected: expected.clone(),
                got: entry.shape.clone(),
            });
        }
    }
    Ok(())
}

fn finite(archive: &Archive, name: &str, values: &[f32]) -> Result<(), Error> {
    match non_finite(values) {
        None => Ok(()),
        Some((at, value)) => Err(Error::NonFinite {
            path: archive.path().to_owned(),
            name: name.to_owned(),
            at,
            value,
        }),
    }
}

/// Appends a stored tensor's values.
pub(super) fn append(
    checkpoint: &Checkpoint,
    name: &str,
    values: &mut Vec<f32>,
) -> Result<(), Error> {
    let (archive, entry, float) = find(checkpoint, name)?;
    let (begin, bytes) = (values.len(), archive.data(entry));
    match &entry.strides {
        None => float.decode(bytes, values),
        Some(strides) => float.gather(bytes, &entry.shape, strides, values),
    }
    finite(archive, name, &values[begin..])
}

pub(super) fn find<'a>(
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
