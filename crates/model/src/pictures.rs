//! Pictures of a clip, as normalised planes.
//!
//! Invariant: equal places in the same memory are the same pictures, and nothing is copied to make a clip of frames that other clips hold as well.

use std::sync::Arc;

use super::Kept;
use super::vit::Picture;

/// Pictures of a clip; cheap to clone.
#[derive(Debug, Clone)]
pub enum Pictures {
    /// Planes `[3, T, S, S]` of all frames.
    Clip(Arc<[f32]>),
    /// Planes `[3, S, S]` of each frame in order; other clips may hold the same frames.
    Frames(Arc<[Arc<[f32]>]>),
    /// The same, with a place where each frame's tokens are kept from one batch to the next.
    Keeping(Arc<[Arc<[f32]>]>, Arc<[Kept]>),
}

impl From<Arc<[f32]>> for Pictures {
    fn from(planes: Arc<[f32]>) -> Self {
        Self::Clip(planes)
    }
}

impl From<Vec<Arc<[f32]>>> for Pictures {
    fn from(frames: Vec<Arc<[f32]>>) -> Self {
        Self::Frames(frames.into())
    }
}

impl FromIterator<(Arc<[f32]>, Kept)> for Pictures {
    fn from_iter<I: IntoIterator<Item = (Arc<[f32]>, Kept)>>(frames: I) -> Self {
        let (frames, kept): (Vec<_>, Vec<_>) = frames.into_iter().unzip();
        Self::Keeping(frames.into(), kept.into())
    }
}

/// Where a picture lies: the address of its buffer, and its number in it.
pub(super) type Place = (*const f32, usize);

impl Pictures {
    /// Returns the buffers that hold the pictures; one that holds several comes once for each of them when the clip is made of frames.
    pub fn buffers(&self) -> &[Arc<[f32]>] {
        match self {
            Self::Clip(planes) => std::slice::from_ref(planes),
            Self::Frames(frames) | Self::Keeping(frames, _) => frames,
        }
    }

    /// Returns where the frames' tokens are kept; empty when they are not.
    pub(super) fn kept(&self) -> &[Kept] {
        match self {
            Self::Clip(_) | Self::Frames(_) => &[],
            Self::Keeping(_, kept) => kept,
        }
    }

    /// Returns the same pictures, whose tokens are not kept.
    #[must_use]
    pub fn without_kept(&self) -> Self {
        match self {
            Self::Clip(planes) => Self::Clip(planes.clone()),
            Self::Frames(frames) | Self::Keeping(frames, _) => Self::Frames(frames.clone()),
        }
    }

    /// Returns the number of values of all pictures.
    pub fn values(&self) -> usize {
        self.buffers().iter().map(|buffer| buffer.len()).sum()
    }

    /// Returns the number of pictures of `frame_len` values each; `None` when they are not whole.
    pub fn frames(&self, frame_len: usize) -> Option<usize> {
        match self {
            Self::Clip(planes) => planes
                .len()
                .is_multiple_of(frame_len)
                .then(|| planes.len() / frame_len.max(1)),
            Self::Frames(frames) | Self::Keeping(frames, _) => {
                let is_whole = frames.iter().all(|frame| frame.len() == frame_len);
                is_whole.then_some(frames.len())
            }
        }
    }

    /// Returns where picture `t` lies.
    pub(super) fn place(&self, t: usize) -> Place {
        match self {
            Self::Clip(planes) => (planes.as_ptr(), t),
            Self::Frames(frames) | Self::Keeping(frames, _) => (frames[t].as_ptr(), 0),
        }
    }

    /// Returns picture `t` of pictures that are whole.
    pub(super) fn picture(&self, t: usize, frame_len: usize) -> Picture<'_> {
        let plane = frame_len / 3;
        match self {
            Self::Clip(planes) => Picture {
                values: &planes[t * plane..],
                channel: planes.len() / 3,
            },
            Self::Frames(frames) | Self::Keeping(frames, _) => Picture {
                values: &frames[t],
                channel: plane,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_pictures_have_a_number() {
        let planes = |values: usize| -> Arc<[f32]> { vec![0.0; values].into() };
        assert_eq!(Pictures::from(planes(24)).frames(12), Some(2));
        assert_eq!(Pictures::from(planes(25)).frames(12), None);
        let frames = |sizes: &[usize]| {
            Pictures::from(sizes.iter().map(|&size| planes(size)).collect::<Vec<_>>())
        };
        assert_eq!(frames(&[12, 12, 12]).frames(12), Some(3));
        assert_eq!(frames(&[12, 24]).frames(12), None);
        assert_eq!(frames(&[]).frames(12), Some(0));
        assert_eq!(frames(&[12, 24]).values(), 36);
    }

    #[test]
    fn a_clip_and_its_frames_show_the_same_pictures() {
        // Three frames of two by one pixels: channel, frame, pixel.
        let clip: Arc<[f32]> = (0..18).map(|value| value as f32).collect();
        let clip = Pictures::from(clip);
        let values = |pictures: &Pictures, t: usize| {
            let picture = pictures.picture(t, 6);
            let channels = (0..3).map(|channel| channel * picture.channel);
            let values = channels.flat_map(|at| picture.values[at..at + 2].to_vec());
            values.collect::<Vec<f32>>()
        };
        let frames: Vec<Arc<[f32]>> = (0..3).map(|t| values(&clip, t).into()).collect();
        let frames = Pictures::from(frames);
        assert_eq!(values(&clip, 1), [2.0, 3.0, 8.0, 9.0, 14.0, 15.0]);
        for t in 0..3 {
            assert_eq!(values(&clip, t), values(&frames, t));
        }
        assert_eq!(clip.place(1).0, clip.place(2).0);
        assert_ne!(frames.place(1), frames.place(2));
    }
}
