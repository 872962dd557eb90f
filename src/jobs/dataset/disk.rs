//! Decoded frames of a job's clips on the disk: read where they are there, and put there where they are not.
//!
//! Invariant: what is read has the bits of a fresh decode; a disk that is full or fails changes nothing but time.

use std::num::NonZeroU16;
use std::sync::Arc;

use super::{Clips, Example, changed, first_view};
use crate::blocking::blocking;
use crate::jobs::decoded::{self, User, Wanted, Writer};
use crate::jobs::failure::Failure;
use crate::metadata::VideoRecord;
use crate::video::{self, ClipSpec};

/// Frames that are decoded at a time: what a job holds of a video in memory.
const PART: u32 = 64;

impl Clips {
    /// Whether the frames of a video are on the disk, where they are put now if they fit.
    pub(super) async fn has_on_disk(
        &self,
        example: Example,
        record: &VideoRecord,
    ) -> Result<bool, Failure> {
        let read = self.frames_on_disk(example, Some(record), &[0]).await?;
        Ok(read.is_some())
    }

    /// Frames of the middle of a video's pictures, `[3, T, S, S]`; `None` when they cannot be on the disk.
    pub(super) async fn frames_on_disk(
        &self,
        example: Example,
        record: Option<&VideoRecord>,
        indices: &[u32],
    ) -> Result<Option<Arc<[f32]>>, Failure> {
        let shape = (example.frames, self.side);
        let is_small = (1..=decoded::FRAMES).contains(&example.frames);
        let Some(disk) = self.disk.as_ref().filter(|_| is_small) else {
            return Ok(None);
        };
        let Some(record) = self.recorded(example, record).await? else {
            return Ok(None);
        };
        let wanted = Wanted::of(&record, "whole".into(), shape);
        if let Some(planes) = read(disk, &wanted, indices).await? {
            return Ok(Some(planes));
        }
        let Some(mut writer) = begin(disk, &wanted).await? else {
            return Ok(None);
        };
        for first in (0..example.frames).step_by(PART as usize) {
            let part: Vec<u32> = (first..(first + PART).min(example.frames)).collect();
            let count = u16::try_from(part.len()).ok().and_then(NonZeroU16::new);
            let spec = ClipSpec {
                frames: count.ok_or_else(|| changed(example.video))?,
                sampling: video::Sampling::Indices(part),
                ..self.centre()
            };
            let clip = self.decode(example.video, Some(&record), spec).await?;
            let planes = first_view(clip, example.video)?;
            match blocking(move || writer.add(&planes)).await? {
                Some(same) => writer = same,
                None => return Ok(None),
            }
        }
        match blocking(move || writer.finish()).await? {
            true => read(disk, &wanted, indices).await,
            false => Ok(None),
        }
    }

    /// The views of one group, spatial-major; `None` when they cannot be on the disk.
    pub(super) async fn views_on_disk(
        &self,
        example: Example,
        group: &ClipSpec,
    ) -> Result<Option<Vec<Arc<[f32]>>>, Failure> {
        let Some(disk) = &self.disk else {
            return Ok(None);
        };
        let Some(record) = self.recorded(example, None).await? else {
            return Ok(None);
        };
        let views = u32::try_from(group.view_count()).unwrap_or(u32::MAX);
        let each = u32::from(group.frames.get());
        let all = views.saturating_mul(each);
        if !(1..=decoded::FRAMES).contains(&all) {
            return Ok(None);
        }
        let wanted = Wanted::of(&record, format!("{group:?}"), (all, group.size));
        let mut found = Vec::new();
        for view in 0..views {
            let frames: Vec<u32> = (view * each..(view + 1) * each).collect();
            match read(disk, &wanted, &frames).await? {
                Some(planes) => found.push(planes),
                None => break,
            }
        }
        if found.len() == views as usize {
            return Ok(Some(found));
        }
        let clip = self.decode(example.video, Some(&record), group.clone());
        let planes = clip.await?.planes;
        if let Some(mut writer) = begin(disk, &wanted).await? {
            let own = planes.clone();
            let written = move || {
                for planes in &own {
                    match writer.add(planes) {
                        Some(same) => writer = same,
                        None => return,
                    }
                }
                writer.finish();
            };
            blocking(written).await?;
        }
        Ok(Some(planes))
    }

    /// The record of an example's video; `None` when it is gone.
    async fn recorded(
        &self,
        example: Example,
        record: Option<&VideoRecord>,
    ) -> Result<Option<VideoRecord>, Failure> {
        match record {
            Some(record) => Ok(Some(record.clone())),
            None => Ok(self.records(&[example.video]).await?.remove(&example.video)),
        }
    }
}

async fn read(
    disk: &Arc<User>,
    wanted: &Wanted,
    frames: &[u32],
) -> Result<Option<Arc<[f32]>>, Failure> {
    let (disk, wanted, frames) = (Arc::clone(disk), wanted.clone(), frames.to_vec());
    Ok(blocking(move || disk.read(&wanted, &frames)).await?)
}

async fn begin(disk: &Arc<User>, wanted: &Wanted) -> Result<Option<Writer>, Failure> {
    let (disk, wanted) = (Arc::clone(disk), wanted.clone());
    Ok(blocking(move || disk.begin(&wanted)).await?)
}
