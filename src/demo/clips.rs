//! The videos of a tenant: synthetic, encoded as H.264 in MP4, and split into training clips and unseen clips.

use bytes::Bytes;
use rayon::prelude::*;

use super::{Error, Role, outcome};
use crate::rng::Stream;
use crate::synth::motion::{self, Clip, Motion, Variety};
use crate::video::encode::{Encoder, Format};

/// Number of training clips.
pub(super) const TRAINING: usize = 160;
/// Number of unseen clips.
pub(super) const UNSEEN: usize = 320;
/// Side of the picture in pixels.
const SIDE: usize = 96;

/// A clip and its file.
pub(super) struct Video {
    pub(super) clip: Clip,
    pub(super) file: Bytes,
}

/// The clips of one task: training clips first, then the unseen ones.
pub(super) struct Material {
    pub(super) motion: Motion,
    pub(super) videos: Vec<Video>,
    codec: &'static str,
}

impl Material {
    /// The unseen clips.
    pub(super) fn unseen(&self) -> &[Video] {
        &self.videos[TRAINING..]
    }

    /// Label of a clip.
    pub(super) fn label(&self, video: usize) -> &'static str {
        self.motion.labels()[self.videos[video].clip.label]
    }

    /// Bytes of all files.
    pub(super) fn bytes(&self) -> usize {
        self.videos.iter().map(|video| video.file.len()).sum()
    }

    /// Description in a line.
    pub(super) fn describe(&self, role: &Role) -> String {
        format!(
            "      {}: {} · {TRAINING} training and {UNSEEN} unseen clips of {} frames, {SIDE} x {SIDE}, {} · {}",
            role.tenant,
            self.motion.labels().join(" / "),
            motion::FRAMES,
            self.codec,
            outcome::bytes(self.bytes() as u64),
        )
    }
}

/// Makes and encodes the clips; the unseen clips come from another stream than the training clips, with other speeds, sizes and textures.
pub(super) fn make(motion: Motion, seed: u64) -> Result<Material, Error> {
    let stream = |purpose| Stream::new(seed, purpose);
    let mut clips = motion::clips(
        motion,
        Variety::Training,
        TRAINING,
        SIDE,
        &stream("demo-training"),
    );
    clips.extend(motion::clips(
        motion,
        Variety::Unseen,
        UNSEEN,
        SIDE,
        &stream("demo-unseen"),
    ));
    let encoded: Vec<(Video, &'static str)> = clips
        .into_par_iter()
        .map(encode)
        .collect::<Result<_, Error>>()?;
    let codec = encoded.first().map_or("", |(_, codec)| *codec);
    Ok(Material {
        motion,
        codec,
        videos: encoded.into_iter().map(|(video, _)| video).collect(),
    })
}

fn encode(clip: Clip) -> Result<(Video, &'static str), Error> {
    let side = clip.side as u32;
    let mut encoder = Encoder::new(Format::Mp4, side, side, motion::RATE)?;
    let codec = encoder.codec();
    for frame in &clip.frames {
        encoder.push(frame)?;
    }
    let file = encoder.finish()?.into();
    Ok((Video { clip, file }, codec))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clips_are_balanced_small_and_differ_between_the_splits() {
        let material = make(Motion::Growth, 3).unwrap();
        assert_eq!(material.videos.len(), TRAINING + UNSEEN);
        assert_eq!(material.unseen().len(), UNSEEN);
        let growing = material
            .unseen()
            .iter()
            .filter(|video| video.clip.label == 0);
        assert_eq!(growing.count(), UNSEEN / 2);
        assert!(
            material
                .videos
                .iter()
                .all(|video| video.file.len() < 64 << 10)
        );
        assert_ne!(material.videos[0].clip, material.unseen()[0].clip);
    }
}
