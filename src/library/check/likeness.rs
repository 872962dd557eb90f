//! Videos that look like those of another split, by their sketches.

use super::{Finding, Kind, NAMED, Seen};
use crate::ids::VideoId;
use crate::library::alike::{self, Likeness};
use crate::library::sketch::Sketch;
use crate::spec::Split;

/// Videos of validation and test that are alike to one of another split, as many as fit by name.
#[derive(Default)]
struct Found {
    count: u64,
    videos: Vec<VideoId>,
}

/// What is found of examples, each with its sketch; those of equal bytes are told of elsewhere.
pub(super) fn findings(seen: &[Seen], sketches: &[Option<Sketch>]) -> Vec<Finding> {
    // Of each video that is measured: the nearest likeness, and of which video.
    let mut best: Vec<Option<(Likeness, u32)>> = vec![None; seen.len()];
    alike::pairs(sketches, |one, other, likeness| {
        let (Some(first), Some(second)) = (seen.get(one), seen.get(other)) else {
            return;
        };
        if first.split == second.split || first.content == second.content {
            return;
        }
        let (measured, mate) = match place(first.split) > place(second.split) {
            true => (one, other),
            false => (other, one),
        };
        let own = (likeness, u32::try_from(mate).unwrap_or(u32::MAX));
        if best[measured].is_none_or(|before| own < before) {
            best[measured] = Some(own);
        }
    });
    let (mut near, mut scene) = (Found::default(), Found::default());
    for (own, best) in seen.iter().zip(best) {
        let Some((likeness, mate)) = best else {
            continue;
        };
        let found = match likeness {
            Likeness::Near => &mut near,
            Likeness::Scene => &mut scene,
        };
        found.count += 1;
        if let Some(mate) = seen.get(mate as usize)
            && found.videos.len() + 2 <= NAMED
        {
            found.videos.extend([own.video, mate.video]);
        }
    }
    let finding = |(kind, what, found): (Kind, &str, Found)| {
        (found.count > 0).then(|| Finding {
            kind,
            text: format!("{what}: {}", found.count),
            count: found.count,
            labels: Vec::new(),
            videos: found.videos,
        })
    };
    let near = (
        Kind::NearDuplicateAcrossSplits,
        "validation and test videos with almost the same pictures as a video of another split, so that what is measured was trained on",
        near,
    );
    let scene = (
        Kind::SceneAcrossSplits,
        "validation and test videos that probably show the scene of a video of another split, by which they may be told instead of by what happens",
        scene,
    );
    [near, scene].into_iter().filter_map(finding).collect()
}

/// How far a split is from training.
fn place(split: Split) -> u8 {
    match split {
        Split::Train => 0,
        Split::Validation => 1,
        Split::Test => 2,
    }
}
