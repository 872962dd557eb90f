//! Frozen features of the validation split, from which heads without adapters are evaluated again and again.
//!
//! Invariant: metrics from features have the bits of metrics from the videos; features that have no room on the disk are not stored, and the videos are
//! read for each evaluation instead.

use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use tokio::sync::OwnedMutexGuard;

use super::Run;
use super::prepare::Prepared;
use crate::blocking::blocking;
use crate::jobs::failure::Failure;
use crate::jobs::features::{self, Features, Kind};
use crate::jobs::spent::Phase;
use crate::model::Features as Frozen;
use crate::spec::{Digest, Head};
use crate::video::ClipSpec;

/// What heads read of every view of the validation split.
#[derive(Debug, Clone)]
pub(super) struct Views {
    pub(super) features: Arc<Features>,
    /// The head that reads them as they are; those that read less read a part.
    pub(super) of: Head,
}

impl Run {
    /// The features of the validation split, which are computed when they are first wanted; `None` when they have no room.
    pub(super) async fn views(&mut self, prepared: &Prepared) -> Result<Option<Views>, Failure> {
        if let Some(views) = &self.measured.views {
            return Ok(views.clone());
        }
        let views = match self.views_head(prepared) {
            Some(of) => Some(Box::pin(self.computed_views(prepared, of)).await?),
            None => None,
        };
        self.measured.views = Some(views.clone());
        Ok(views)
    }

    async fn computed_views(&self, prepared: &Prepared, of: Head) -> Result<Views, Failure> {
        let _turn = self.feature_turn(prepared, of, Kind::Validation).await?;
        let features = self.open_features(prepared, of, Kind::Validation).await?;
        let forwards = self.forwards(prepared);
        let split = (&prepared.validation[..], of);
        let features = forwards.view_features(&prepared.training.clips, split, features);
        let features = self.unless_stopped(features);
        let features = Arc::new(self.spent.during(Phase::Features, features).await?);
        Ok(Views { features, of })
    }

    /// The head whose features are stored of the validation split: that of the training features, if those of both splits fit.
    fn views_head(&self, prepared: &Prepared) -> Option<Head> {
        let own = prepared.origin.adapter;
        let (of, trained) = match self.tried_of(prepared) {
            Some(of) => (of, features::draws(of)),
            None if own.has_sites() => return None,
            None => (own.head, features::draws(own.head)),
        };
        let views = views_of(prepared);
        let rows = prepared.training.examples.len() * trained + prepared.validation.len() * views;
        self.fits(prepared, of, rows).then_some(of)
    }

    /// Whether so many rows of a head's features have room on the disk.
    pub(super) fn fits(&self, prepared: &Prepared, head: Head, rows: usize) -> bool {
        let row = (4 * self.feature_width(prepared, head)) as u64;
        (rows as u64).saturating_mul(row) <= self.context.config.feature_bytes
    }

    /// Number of values of a clip's features.
    pub(super) fn feature_width(&self, prepared: &Prepared, head: Head) -> usize {
        let backbone = self.context.parts.backbone.config();
        Frozen::width(backbone, head, prepared.num_frames)
    }

    /// Waits until no other job of this process computes these features, and tells that it does: what the other leaves is shared, so that the jobs of a sweep
    /// compute them once.
    pub(super) async fn feature_turn(
        &self,
        prepared: &Prepared,
        head: Head,
        kind: Kind,
    ) -> Result<OwnedMutexGuard<()>, Failure> {
        let key = key_of(prepared, head, kind);
        let (turns, tenant) = (&self.context.turns, &self.lease.tenant);
        if let Some(turn) = turns.try_take(tenant, key) {
            return Ok(turn);
        }
        let told = "waits for another job of this server, which computes the same frozen features";
        self.tell(false, told.into()).await?;
        self.unless_stopped(async { Ok(turns.take(tenant, key).await) })
            .await
    }

    /// Features of this kind as far as they were computed, in this claim or in one before.
    pub(super) async fn open_features(
        &self,
        prepared: &Prepared,
        head: Head,
        kind: Kind,
    ) -> Result<Features, Failure> {
        let key = key_of(prepared, head, kind);
        let width = self.feature_width(prepared, head);
        let owner = (&self.lease.tenant, self.lease.job);
        let path = features::path(&self.context.parts.scratch, owner, kind);
        let rows = match kind {
            Kind::Training | Kind::Tried => {
                prepared.training.examples.len() * features::draws(head)
            }
            Kind::Validation => prepared.validation.len() * views_of(prepared),
        };
        blocking(move || {
            // It spares work only.
            if let Err(error) = features::share(&path, key, width, rows as u64) {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, "frozen features are not shared");
            }
            Ok(Features::open(&path, key, width)?)
        })
        .await?
    }
}

/// Views of a validation clip.
pub(super) fn views_of(prepared: &Prepared) -> usize {
    let groups = prepared.training.clips.view_groups();
    groups.iter().map(ClipSpec::view_count).sum()
}

/// What features of a split are computed from, which any job may share: the examples in their order, the head that reads them, and the seed where it decides
/// which frames are drawn.
fn key_of(prepared: &Prepared, head: Head, kind: Kind) -> Digest {
    let draws = features::draws(head);
    let (what, examples, is_drawn) = match kind {
        Kind::Training | Kind::Tried => ("clips", &prepared.training.examples, draws > 1),
        Kind::Validation => ("views", &prepared.validation, false),
    };
    let mut sha256 = Sha256::new();
    sha256.update(prepared.features.0);
    sha256.update(format!("{what} {head:?} {draws}"));
    if is_drawn {
        sha256.update(prepared.training.plan.seed.to_le_bytes());
    }
    for example in examples {
        sha256.update(example.video.uuid().as_bytes());
    }
    Digest(sha256.finalize().into())
}
