//! The version whose weights a job continues: whether it fits the task, and how its labels and rows become those of the job.
//!
//! Invariant: a label of the version keeps its row, by the bit until the first step; labels that the version does not have come after them.

use std::sync::Arc;

use crate::ids::AdapterVersion;
use crate::metadata::VersionManifest;
use crate::model::AdapterSet;
use crate::spec::{AdapterConfig, Digest, Invalid, LabelKind, LabelSet};

/// A version with its weights.
#[derive(Debug, Clone)]
pub(super) struct Parent {
    pub(super) version: AdapterVersion,
    pub(super) labels: LabelSet,
    pub(super) set: Arc<AdapterSet>,
}

/// The number of a version out of a submission; `None` when none was given.
///
/// # Errors
/// When it is 0, which no version has.
pub(super) fn number(submitted: Option<u32>) -> Result<Option<AdapterVersion>, Invalid> {
    let Some(submitted) = submitted else {
        return Ok(None);
    };
    let version = AdapterVersion::new(submitted);
    let wrong = || Invalid::new("parent", "versions are numbered from 1, got 0");
    version.ok_or_else(wrong).map(Some)
}

/// Checks that a task of this shape can continue a version on a data set whose labels are of this kind.
///
/// # Errors
/// Says what the version has and what the task needs, when its adapters or its head are others, its labels are of another kind, or it was trained on another
/// backbone.
pub(super) fn check(
    (version, manifest): (AdapterVersion, &VersionManifest),
    (adapter, kind): (&AdapterConfig, LabelKind),
    backbone: Digest,
) -> Result<(), Invalid> {
    let refused = |problem: String| Err(Invalid::new("parent", problem));
    let own = &manifest.adapter;
    if own != adapter {
        return refused(format!(
            "version {version} has {own}, the task's jobs train {adapter}: a job continues a version with the same adapters and head"
        ));
    }
    let labels = &manifest.labels;
    if labels.kind() != kind {
        return refused(match kind {
            LabelKind::Single => format!(
                "the labels of version {version} do not exclude one another (LABEL_KIND_MULTI), those of the data set do"
            ),
            LabelKind::Multi => format!(
                "the labels of version {version} exclude one another, those of the data set do not (LABEL_KIND_MULTI)"
            ),
        });
    }
    if manifest.backbone_digest != backbone {
        let other = manifest.backbone_digest;
        return refused(format!(
            "version {version} was trained on backbone {other}, the server has {backbone}"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_numbered_from_one() {
        assert_eq!(number(None), Ok(None));
        assert_eq!(number(Some(3)), Ok(AdapterVersion::new(3)));
        assert_eq!(number(Some(0)).map_err(|own| own.field), Err("parent"));
    }
}
