//! Whether serving versions can be served: versions of another backbone are reported at the start, damaged ones when they are first loaded.
//!
//! Invariant: `serving_error` of a task whose desired version serves is empty exactly when nothing is known against that version.

use std::collections::BTreeSet;

use super::{Registry, Result};
use crate::ids::{TaskId, TenantId, VersionRef};
use crate::spec::Digest;

/// Tasks that are compared at once.
const PAGE: u32 = 1000;

/// Number of tasks that serve, and how many of them cannot on this backbone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fitness {
    /// Number of tasks with a serving version.
    pub tasks: u64,
    /// Number of tasks whose serving version was trained on another backbone.
    pub unservable: u64,
    /// Digests of the other backbones.
    pub backbones: BTreeSet<Digest>,
}

impl Registry {
    /// Compares every serving version with the resident backbone, and records the result in each task's `serving_error`. What an earlier process
    /// recorded about a version that fits is withdrawn: it is found again when the version is loaded.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn compare_backbones(&self, resident: Digest) -> Result<Fitness> {
        let mut fitness = Fitness::default();
        let mut after: Option<(TenantId, TaskId)> = None;
        loop {
            let start = after.as_ref().map(|(tenant, task)| (tenant, task));
            let page = self.inner.metadata.serving_versions(start, PAGE).await?;
            let is_last = page.len() < PAGE as usize;
            for own in page {
                let fits = own.backbone_digest == resident;
                fitness.tasks += 1;
                if !fits {
                    fitness.unservable += 1;
                    fitness.backbones.insert(own.backbone_digest);
                }
                let why = (!fits).then(|| {
                    format!(
                        "{} was trained on backbone {}, the resident one is {resident}",
                        own.version, own.backbone_digest
                    )
                });
                // Others may have that backbone where records are shared: nothing is said against the version there.
                let may_note = fits || self.inner.replica.is_none();
                if own.is_desired && may_note && own.serving_error != why {
                    self.note_serving(&own.version, why.as_deref()).await?;
                }
                after = Some((own.version.tenant, own.version.task));
            }
            if is_last {
                return Ok(fitness);
            }
        }
    }

    /// Records why the serving version cannot be served, or that nothing is known against it. Returns whether that is news.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn note_serving(&self, version: &VersionRef, why: Option<&str>) -> Result<bool> {
        let VersionRef {
            tenant,
            task,
            version,
        } = version;
        let _writing = self.inner.view.writing(tenant, task);
        let metadata = &self.inner.metadata;
        Ok(metadata.note_serving(tenant, task, *version, why).await?)
    }
}
