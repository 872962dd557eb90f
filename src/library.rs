//! Videos and labelled data sets: what a tenant owns before anything is trained.
//!
//! Invariant: an upload that was acknowledged is on the disk; a video on record was probed by the decoder and its blob is whole.

mod alike;
mod archive;
mod archives;
mod check;
mod collector;
mod dataset;
mod diff;
mod eraser;
mod janitor;
mod places;
mod sketch;
mod stored;
mod unrecorded;
mod upload;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Semaphore;

pub use alike::groups as alike_groups;
pub use archive::Error as ArchiveError;
pub use check::{Check, Checked, Finding, Kind as FindingKind};
pub use collector::Collected;
pub use diff::Difference;
pub use janitor::{Duty, Removed, Retention};
pub use sketch::{Sketch, kind as sketches_of};
pub use stored::Damage;
pub use upload::{SingleUpload, Started, Upload};

use crate::blocking::Unfinished;
use crate::ids::{TenantId, VideoId};
use crate::metadata::{
    self, AgedPlace, MetadataStore, Page, PageRequest, UploadLimits, VideoProbe, VideoRecord,
};
use crate::spec::{Digest, Invalid};
use crate::store::{self, Store, layout};
use crate::video;

/// What the library allows.
#[derive(Debug, Clone)]
pub struct Config {
    /// Bytes of one uploaded video.
    pub upload_bytes: u64,
    /// Bytes of a part of a resumable upload: what a cut can cost, and what an upload holds in memory.
    pub part_bytes: usize,
    /// How old a blob that no record names gets before it is collected. Well above the longest time between a blob and its record.
    pub orphan_age: Duration,
    /// Largest share of all blobs, in percent, that one look for orphans takes; when there are more, it takes none.
    pub orphan_share: u8,
    /// How long a collected blob lies in the trash.
    pub trash_age: Duration,
    /// How long an empty folder stays.
    pub folder_age: Duration,
    /// What unfinished uploads may take.
    pub uploads: UploadLimits,
    /// Most examples of all data sets of a tenant that has no limit of its own; `None` for no limit.
    pub examples: Option<u64>,
    /// How long what has ended stays.
    pub retention: Retention,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            upload_bytes: 1 << 30,
            part_bytes: 8 << 20,
            orphan_age: Duration::from_secs(24 * 60 * 60),
            orphan_share: 20,
            trash_age: Duration::from_secs(24 * 60 * 60),
            folder_age: Duration::from_secs(60 * 60),
            uploads: UploadLimits {
                expiry: Duration::from_secs(24 * 60 * 60),
                uploads: 256,
                bytes: 64 << 30,
            },
            examples: None,
            retention: Retention::default(),
        }
    }
}

/// Why the library refused or failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A field is out of range.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// The file is larger than allowed.
    #[error("the file is larger than {limit} bytes")]
    TooLarge {
        /// Bytes that are allowed.
        limit: u64,
    },
    /// The bytes do not have the sha256 that the uploader promised.
    #[error("the file was to have sha256 {expected}, the bytes that came have {found}")]
    Sha256Mismatch {
        /// What the uploader said.
        expected: Digest,
        /// What came.
        found: Digest,
    },
    /// The video cannot be probed: it is refused, or the decoder cannot work now.
    #[error("cannot probe the video")]
    Probe(#[from] video::Error),
    /// A part could not be stored: the server is shutting down.
    #[error("the upload was interrupted")]
    Interrupted,
    /// The check of a data set panicked, or the server is shutting down.
    #[error("the check of a data set broke off")]
    Check(#[source] Unfinished),
    /// A stored video's bytes are not those that were uploaded.
    #[error("the stored bytes of videos/{video} are damaged: {damage}")]
    Damaged {
        /// Which video.
        video: VideoId,
        /// What is wrong with its bytes.
        damage: Damage,
    },
    /// The blob of a snapshot cannot be read.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// A record.
    #[error(transparent)]
    Metadata(#[from] metadata::Error),
    /// A blob.
    #[error(transparent)]
    Store(#[from] store::Error),
}

impl Error {
    /// Whether the tenant has no such video.
    pub fn is_missing_video(&self) -> bool {
        matches!(
            self,
            Self::Metadata(metadata::Error::NotFound {
                kind: metadata::Kind::Video,
                ..
            })
        )
    }

    /// Whether the bytes are refused, so that sending them again would not help.
    fn is_refusal(&self) -> bool {
        matches!(
            self,
            Self::Sha256Mismatch { .. } | Self::Probe(video::Error::Rejected(_))
        )
    }
}

/// Result of a use case.
pub type Result<T> = std::result::Result<T, Error>;

/// Finds out what a video is: the decoder, or a test's own.
#[async_trait]
pub trait Prober: Send + Sync {
    /// Reads what a video is, having decoded it once.
    async fn probe(
        &self,
        tenant: &TenantId,
        input: video::Input,
    ) -> std::result::Result<video::Probe, video::Error>;
}

#[async_trait]
impl Prober for video::Decoder {
    async fn probe(
        &self,
        tenant: &TenantId,
        input: video::Input,
    ) -> std::result::Result<video::Probe, video::Error> {
        video::Decoder::probe(self, tenant, video::Lane::Interactive, input).await
    }
}

/// Videos and data sets. Clones are cheap.
#[derive(Clone)]
pub struct Library {
    inner: Arc<Inner>,
}

struct Inner {
    config: Config,
    store: Store,
    metadata: Arc<dyn MetadataStore>,
    prober: Arc<dyn Prober>,
    whole: stored::Whole,
    /// Parts of uploads that are being stored, whether or not their streams are still there.
    parts: places::Places,
    /// Checks of data sets that may run at the same time.
    checks: Arc<Semaphore>,
    /// How far the walk over videos that are older than their tenant's stay has come. A plain mutex, because it is held for one assignment.
    aged: Mutex<Option<AgedPlace>>,
    /// Snapshots whose examples are being stored again.
    refills: archives::Refills,
}

impl Library {
    /// A library over its parts.
    pub fn new(
        config: Config,
        store: Store,
        metadata: Arc<dyn MetadataStore>,
        prober: Arc<dyn Prober>,
    ) -> Self {
        Self {
            inner: Arc::new(Inner {
                config,
                store,
                metadata,
                prober,
                whole: stored::Whole::default(),
                parts: places::Places::default(),
                checks: Arc::new(Semaphore::new(check::AT_A_TIME)),
                aged: Mutex::default(),
                refills: archives::Refills::default(),
            }),
        }
    }

    /// What the library allows.
    pub fn config(&self) -> &Config {
        &self.inner.config
    }

    /// Reads a video's record.
    ///
    /// # Errors
    /// When the tenant has no such video, or the database fails.
    pub async fn get_video(&self, tenant: &TenantId, video: VideoId) -> Result<VideoRecord> {
        Ok(self.inner.metadata.get_video(tenant, video).await?)
    }

    /// Reads the records of many videos at once; those that are not there are left out.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn get_videos(
        &self,
        tenant: &TenantId,
        videos: &[VideoId],
    ) -> Result<Vec<VideoRecord>> {
        Ok(self.inner.metadata.get_videos(tenant, videos).await?)
    }

    /// Lists videos, oldest first.
    ///
    /// # Errors
    /// When the page token is not from this listing, or the database fails.
    pub async fn list_videos(
        &self,
        tenant: &TenantId,
        page: &PageRequest,
    ) -> Result<Page<VideoRecord>> {
        Ok(self.inner.metadata.list_videos(tenant, page).await?)
    }

    /// Deletes a video and its bytes.
    ///
    /// # Errors
    /// [`metadata::Error::InUse`] when a data set or an unfinished job names it and `force` is not set.
    pub async fn delete_video(&self, tenant: &TenantId, video: VideoId, force: bool) -> Result<()> {
        self.inner
            .metadata
            .delete_video(tenant, video, force)
            .await?;
        // The record is gone, so the call has succeeded; a blob that stays behind is an orphan for the collector.
        self.inner.drop_blob(&layout::video(tenant, video)).await;
        Ok(())
    }
}

impl Inner {
    async fn drop_blob(&self, key: &store::Key) {
        if let Err(error) = self.store.delete(key).await {
            tracing::warn!(%key, error = &error as &dyn std::error::Error, "cannot delete an unused object");
        }
    }
}

fn probed(probe: &video::Probe) -> VideoProbe {
    VideoProbe {
        container: probe.container.name().into(),
        codec: probe.codec.name().into(),
        width: probe.width,
        height: probe.height,
        frames: probe.frames,
        duration_micros: u64::try_from(probe.duration.as_micros()).unwrap_or(u64::MAX),
        frame_rate: probe.rate.value(),
        rotation_degrees: probe.rotation.degrees(),
        mirrored: probe.mirrored,
        reference_frames: (probe.reference_frames != probe.frames)
            .then_some(probe.reference_frames),
        warnings: probe
            .warnings
            .iter()
            .map(|warning| warning.name().into())
            .collect(),
    }
}
