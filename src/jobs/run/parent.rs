//! The version that a job continues, read from the store.

use std::sync::Arc;

use super::Run;
use super::survey::Survey;
use crate::blocking::blocking;
use crate::ids::{AdapterVersion, VersionRef};
use crate::jobs::failure::Failure;
use crate::jobs::parent::{self, Parent};
use crate::metadata::TaskRecord;
use crate::model::{self, AdapterSet};
use crate::spec::{LabelKind, LabelSet};

/// Labels that are named; the others are counted.
const NAMED: usize = 20;

impl Run {
    /// The version that training starts from, which the task must be able to continue; `None` when it starts from new weights.
    pub(super) async fn parent(
        &self,
        (task, kind): (&TaskRecord, LabelKind),
    ) -> Result<Option<Parent>, Failure> {
        let number = self.job.hyper_parameters.parent;
        let Some(version) = number.and_then(AdapterVersion::new) else {
            return Ok(None);
        };
        let parts = &self.context.parts;
        let name = VersionRef {
            tenant: self.lease.tenant.clone(),
            task: self.job.task.clone(),
            version,
        };
        let load = || async { Ok(parts.registry.load(&name).await?) };
        let loaded = self.journal.patiently_moving(load).await?;
        let manifest = &loaded.record.manifest;
        let digest = parts.backbone.digest();
        let fits = parent::check((version, manifest), (&task.adapter, kind), digest);
        fits.map_err(|invalid| Failure::Task(model::Error::Adapter(invalid)))?;
        let (labels, adapter) = (manifest.labels.clone(), manifest.adapter);
        let (backbone, classes) = (Arc::clone(&parts.backbone), labels.len());
        let read = move || {
            AdapterSet::from_safetensors(&loaded.bytes, backbone.config(), adapter, classes)
        };
        let set = Arc::new(blocking(read).await??);
        Ok(Some(Parent {
            version,
            labels,
            set,
        }))
    }

    /// Tells which labels are new, and which ones the version may forget, since nothing shows them any more.
    pub(super) async fn tell_parent(
        &self,
        parent: Option<&Parent>,
        (survey, labels): (&Survey, &LabelSet),
    ) -> Result<(), Failure> {
        let Some(parent) = parent else {
            return Ok(());
        };
        let (labels, known) = (labels.as_slice(), parent.labels.len());
        let mut is_trained = vec![false; labels.len()];
        for example in &survey.training {
            for row in survey.truths.rows(&example.class) {
                if let Some(own) = is_trained.get_mut(*row as usize) {
                    *own = true;
                }
            }
        }
        let added = labels.get(known..).unwrap_or_default();
        let mut text = format!("training continues version {}", parent.version);
        if !added.is_empty() {
            text += &format!(
                "; labels that it does not have get new rows of the head: {}",
                listed(added.iter())
            );
        }
        self.tell(false, text).await?;
        let old = labels.iter().zip(&is_trained).take(known);
        let lost: Vec<&String> = old.filter(|own| !own.1).map(|own| own.0).collect();
        if lost.is_empty() {
            return Ok(());
        }
        let text = format!(
            "labels of version {} have no training clips, so that training may unlearn them: {}",
            parent.version,
            listed(lost.into_iter())
        );
        self.tell(true, text).await
    }
}

fn listed<'a>(labels: impl ExactSizeIterator<Item = &'a String>) -> String {
    let more = labels.len().saturating_sub(NAMED);
    let named: Vec<String> = labels.take(NAMED).map(|own| format!("{own:?}")).collect();
    match more {
        0 => named.join(", "),
        more => format!("{} and {more} more", named.join(", ")),
    }
}
