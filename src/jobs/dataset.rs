//! A job's clips, for training and for evaluation.
//!
//! Invariant: whether a clip comes from the cache or from the decoder changes no bit.

mod batches;
mod cache;
mod disk;
mod labels;
mod prefixes;
mod truths;

use std::collections::HashMap;
use std::num::{NonZeroU8, NonZeroU16};
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{Stream, StreamExt, stream};
use sha2::{Digest as _, Sha256};

use super::checkpoint;
use super::decoded::{Decoded, User};
use super::failure::Failure;
use super::journal::Journal;
use crate::blocking::blocking;
use crate::ids::{TenantId, VideoId};
use crate::library::{self, Library};
use crate::metadata::VideoRecord;
use crate::model::{Goal, Kept, Marks};
use crate::spec::{ClipSampling, Digest, Normalization, RotationPolicy};
use crate::video::{self, Alter, Clip, ClipSpec, Decoder, Lane, Rect, Views};

pub(super) use batches::{Batches, Order, Training, frozen_row};
pub(super) use cache::Budget;
use cache::Member;
pub(super) use labels::Balance;
pub(super) use prefixes::Prefixes;
pub(super) use truths::Truths;

/// Videos of one job that are decoded at a time; the decoder shares its workers fairly among tenants.
const PARALLEL: usize = 4;
/// Frames by which it is seen what a video looks like.
pub(super) const GLANCE: NonZeroU16 = NonZeroU16::MIN.saturating_add(1);
/// How often an interrupted decode is tried.
const TRIES: u32 = 5;

/// A labelled video of the training or validation split.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Example {
    pub(super) video: VideoId,
    /// Row of the head, or number of the set of rows when labels do not exclude one another: [`Truths::rows`].
    pub(super) class: u32,
    /// Frames of the video.
    pub(super) frames: u32,
    /// Width and height of an upright picture.
    pub(super) size: (u32, u32),
}

// A job holds one for each of hundreds of thousands of videos.
const _: () = assert!(size_of::<Example>() <= 32);

/// Decodes one job's videos.
pub(super) struct Clips {
    sources: Sources,
    tenant: TenantId,
    sampling: ClipSampling,
    side: u16,
    normalization: Normalization,
    /// Decoded videos of this job and of others that decode alike.
    pool: Member,
    /// Decoded frames on the disk, where they are kept.
    disk: Option<Arc<User>>,
}

/// Where videos come from, and who is told when they do not come.
pub(super) struct Sources {
    pub(super) library: Library,
    pub(super) decoder: Decoder,
    pub(super) journal: Arc<Journal>,
    /// Decoded frames on the disk, where the job keeps any.
    pub(super) decoded: Option<Arc<Decoded>>,
}

/// What a step trains on.
#[derive(Debug)]
pub(super) struct Batch {
    /// Per clip the planes `[3, T, S, S]`.
    pub(super) frames: Vec<Arc<[f32]>>,
    /// Per clip where the tokens of each frame are kept; empty when none are.
    pub(super) kept: Vec<Vec<Option<Kept>>>,
    /// What each clip is to be.
    pub(super) targets: Targets,
}

/// What the clips of a step are to be.
#[derive(Debug, Clone, Default)]
pub(super) struct Targets {
    /// Per clip its class.
    pub(super) labels: Vec<u32>,
    /// Per clip what it is to be besides, and how much it counts; empty when every clip is its label.
    pub(super) goals: Vec<Goal>,
    /// What the clips are to be label by label, when labels do not exclude one another.
    pub(super) marks: Option<Marks>,
}

/// How a backbone wants its pictures.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pictures {
    pub(super) side: u16,
    pub(super) normalization: Normalization,
}

impl Clips {
    pub(super) fn new(
        sources: Sources,
        tenant: TenantId,
        sampling: ClipSampling,
        pictures: Pictures,
        budget: &Arc<Budget>,
    ) -> Self {
        // All that decides what the whole of a decoded video is.
        let decoding = format!("{:?} {:?} {pictures:?}", sampling.rotation, sampling.order);
        let disk = sources.decoded.as_ref().map(|decoded| {
            let limits = sources.decoder.limits();
            let release = env!("CARGO_PKG_VERSION");
            decoded.user(&tenant, &format!("{decoding} {limits:?} {release}"))
        });
        Self {
            disk,
            pool: budget.member(&tenant, &decoding),
            sources,
            tenant,
            sampling,
            side: pictures.side,
            normalization: pictures.normalization,
        }
    }

    /// What is known of a video as an example of a class.
    pub(super) fn example(&self, video: &VideoRecord, class: u32) -> Example {
        let probe = &video.probe;
        let is_sideways = !probe.rotation_degrees.is_multiple_of(180);
        let size = match self.sampling.rotation {
            RotationPolicy::Display if is_sideways => (probe.height, probe.width),
            RotationPolicy::Display | RotationPolicy::Stored => (probe.width, probe.height),
        };
        Example {
            video: video.id,
            class,
            frames: probe.frames_in(self.sampling.order),
            size,
        }
    }

    /// Reads the records of some videos at once; those that are gone are left out.
    pub(super) async fn records(
        &self,
        videos: &[VideoId],
    ) -> Result<HashMap<VideoId, VideoRecord>, Failure> {
        let Sources {
            library, journal, ..
        } = &self.sources;
        let read = || async { Ok(library.get_videos(&self.tenant, videos).await?) };
        let found = journal.patiently(read).await?;
        let by_id = found.into_iter().map(|record| (record.id, record));
        Ok(by_id.collect())
    }

    /// Returns whether videos are fetched to this machine before they are decoded.
    pub(super) fn are_fetched(&self) -> bool {
        self.sources.library.has_cache()
    }

    /// Asks for the files of videos that are needed soon. What cannot be asked for is fetched when it is needed.
    pub(super) async fn prefetch(&self, mut videos: Vec<VideoId>) {
        videos.retain(|video| !self.pool.has(*video));
        if videos.is_empty() {
            return;
        }
        let library = &self.sources.library;
        if let Ok(records) = library.get_videos(&self.tenant, &videos).await {
            for record in &records {
                library.prefetch(record);
            }
        }
    }

    /// Digest of everything that decides whether a video decodes: how it is sampled, the decoder's limits, this release.
    pub(super) fn decoding(&self) -> Result<Digest, Failure> {
        let sampling = serde_json::to_vec(&self.sampling).map_err(checkpoint::Error::from)?;
        let limits = self.sources.decoder.limits();
        let policy = format!("{} {} {limits:?}", env!("CARGO_PKG_VERSION"), self.side);
        let mut sha256 = Sha256::new();
        sha256.update(sampling);
        sha256.update(policy);
        Ok(Digest(sha256.finalize().into()))
    }

    /// Looks whether a video that was decoded before still has its bytes.
    pub(super) async fn look_at(&self, record: &VideoRecord) -> Result<(), Failure> {
        let Sources {
            library, journal, ..
        } = &self.sources;
        let look = || async { Ok(library.look_at(record).await?) };
        journal.patiently(look).await.map_err(of_video)
    }

    /// Decodes a training video once, so that one that cannot be decoded is known; keeps it when that spares decoding it in every epoch.
    pub(super) async fn check(
        &self,
        example: Example,
        record: &VideoRecord,
        keep: bool,
    ) -> Result<(), Failure> {
        if keep && self.keep(example, Some(record)).await?.is_some() {
            return Ok(());
        }
        if keep && self.has_on_disk(example, record).await? {
            return Ok(());
        }
        let decode = self.decode(example.video, Some(record), self.centre());
        decode.await.map(drop)
    }

    /// The clip that classification would take from the middle of the video: `[3, T, S, S]`.
    pub(super) async fn central(&self, example: Example) -> Result<Arc<[f32]>, Failure> {
        let clip = self.decode(example.video, None, self.centre()).await?;
        first_view(clip, example.video)
    }

    /// Two frames of the whole video, as every task's look at it: `[3, 2, S, S]`.
    pub(super) async fn glance(
        &self,
        example: Example,
        record: &VideoRecord,
    ) -> Result<Arc<[f32]>, Failure> {
        let sampling = ClipSampling::uniform(GLANCE);
        let spec = ClipSpec::of_task(&sampling, self.side, self.normalization);
        let clip = self.decode(example.video, Some(record), spec).await?;
        first_view(clip, example.video)
    }

    /// Requests for every view that classification takes, in groups that a decoder's answer can hold.
    pub(super) fn view_groups(&self) -> Vec<ClipSpec> {
        ClipSpec::of_task(&self.sampling, self.side, self.normalization).groups()
    }

    /// The views of one group, spatial-major.
    pub(super) async fn views(
        &self,
        example: Example,
        group: ClipSpec,
    ) -> Result<Vec<Arc<[f32]>>, Failure> {
        if let Some(views) = self.views_on_disk(example, &group).await? {
            return Ok(views);
        }
        Ok(self.decode(example.video, None, group).await?.planes)
    }

    /// Chosen frames of the middle of the picture, or of a part of it, of pictures that are changed before.
    async fn frames(
        &self,
        example: Example,
        indices: Vec<u32>,
        (part, alters): (Option<Rect>, Vec<Alter>),
    ) -> Result<Arc<[f32]>, Failure> {
        if part.is_none()
            && alters.is_empty()
            && let Some(whole) = self.keep(example, None).await?
        {
            let side = usize::from(self.side);
            let picked = blocking(move || cache::select(&whole, &indices, side)).await?;
            return picked.ok_or_else(|| changed(example.video));
        }
        if part.is_none()
            && alters.is_empty()
            && let Some(planes) = self.frames_on_disk(example, None, &indices).await?
        {
            return Ok(planes);
        }
        let spec = ClipSpec {
            sampling: video::Sampling::Indices(indices),
            views: part.map_or(Views::Center, |rect| Views::Rects(vec![rect])),
            alters,
            ..self.centre()
        };
        first_view(self.decode(example.video, None, spec).await?, example.video)
    }

    /// All frames of a video from the cache, where they are put now if they fit.
    async fn keep(
        &self,
        example: Example,
        record: Option<&VideoRecord>,
    ) -> Result<Option<Arc<[f32]>>, Failure> {
        if let Some(planes) = self.pool.get(example.video) {
            return Ok(Some(planes));
        }
        let count = u16::try_from(example.frames).ok().and_then(NonZeroU16::new);
        let side = usize::from(self.side);
        let room = self.pool.reserve(example.video, example.frames, side);
        let Some((frames, room)) = count.zip(room) else {
            return Ok(None);
        };
        let all: Vec<u32> = (0..example.frames).collect();
        let planes = match self.frames_on_disk(example, record, &all).await? {
            Some(planes) => planes,
            None => {
                let spec = ClipSpec {
                    frames,
                    sampling: video::Sampling::Indices(all),
                    ..self.centre()
                };
                first_view(
                    self.decode(example.video, record, spec).await?,
                    example.video,
                )?
            }
        };
        room.fill(Arc::clone(&planes));
        Ok(Some(planes))
    }

    fn centre(&self) -> ClipSpec {
        ClipSpec {
            temporal_views: NonZeroU8::MIN,
            views: Views::Center,
            ..ClipSpec::of_task(&self.sampling, self.side, self.normalization)
        }
    }

    /// Opens a video, whose record is read when the caller does not have it; waits while that is not possible.
    async fn open(
        &self,
        video: VideoId,
        record: Option<&VideoRecord>,
    ) -> Result<video::Input, Failure> {
        let Sources {
            library, journal, ..
        } = &self.sources;
        let open = || async {
            Ok(match record {
                Some(record) => library.open_recorded(record).await?,
                None => library.open_video(&self.tenant, video).await?.1,
            })
        };
        journal.patiently_moving(open).await.map_err(of_video)
    }

    async fn decode(
        &self,
        video: VideoId,
        record: Option<&VideoRecord>,
        spec: ClipSpec,
    ) -> Result<Clip, Failure> {
        let input = self.open(video, record).await?;
        let mut pause = Duration::from_millis(20);
        let mut interrupted = 0;
        loop {
            let clip =
                self.sources
                    .decoder
                    .clip(&self.tenant, Lane::Batch, input.clone(), spec.clone());
            let error = match clip.await {
                Ok(clip) => return Ok(clip),
                Err(error) => error,
            };
            match error {
                // The tenant's other requests fill its share of the queue; it empties as they are answered.
                video::Error::QueueFull => {}
                video::Error::Interrupted if interrupted < TRIES => interrupted += 1,
                video::Error::Rejected(why) => {
                    let why = why.to_string();
                    return Err(Failure::Video { video, why });
                }
                video::Error::IndexOutOfRange { .. } | video::Error::WindowOutOfRange { .. } => {
                    return Err(changed(video));
                }
                error @ (video::Error::Interrupted
                | video::Error::InvalidRequest { .. }
                | video::Error::PicturesTooLarge { .. }
                | video::Error::Spawn { .. }
                | video::Error::System { .. }
                | video::Error::Unconfined { .. }
                | video::Error::NoContainer
                | video::Error::Stopped) => return Err(error.into()),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(1));
        }
    }
}

fn first_view(clip: Clip, video: VideoId) -> Result<Arc<[f32]>, Failure> {
    clip.planes.into_iter().next().ok_or_else(|| changed(video))
}

/// A video whose bytes are gone is the job's failure, not the server's.
fn of_video(failure: Failure) -> Failure {
    let Failure::Library(error @ library::Error::Damaged { video, .. }) = failure else {
        return failure;
    };
    let why = error.to_string();
    Failure::Video { video, why }
}

fn changed(video: VideoId) -> Failure {
    let why = "it has other frames than when it was uploaded".into();
    Failure::Video { video, why }
}

/// The outcomes in the order of the futures, of which a few run at a time.
pub(super) fn in_order<T: Send>(
    work: Vec<BoxFuture<'_, T>>,
) -> impl Stream<Item = T> + Send + Unpin {
    some_in_order(work, PARALLEL)
}

/// The outcomes in the order of the futures, of which at most so many run at a time; each is made when its turn comes.
pub(super) fn some_in_order<'a, T: Send>(
    work: impl IntoIterator<Item = BoxFuture<'a, T>, IntoIter: Send>,
    parallel: usize,
) -> impl Stream<Item = T> + Send + Unpin {
    stream::iter(work).buffered(parallel.clamp(1, PARALLEL))
}
