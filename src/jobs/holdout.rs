//! Which training clips become the validation split of a data set that has none.
//!
//! Invariant: pure; every label keeps training clips, and clips with the same bytes are held out all or none, whatever their labels.

use std::collections::HashMap;

use crate::rng;
use crate::spec::Digest;

/// A part of a digest that tells contents apart: two of a million are equal by chance once in 10⁷ data sets.
pub(super) fn part_of(digest: Digest) -> u64 {
    digest
        .0
        .first_chunk()
        .map_or(0, |part| u64::from_le_bytes(*part))
}

/// For each training clip whether it is held out, by its class, its content and the `rows` of its labels. Of each class of n clips, `share` · n are, rounded
/// down, as near as the sizes of equal contents allow and as long as each label keeps a clip; which ones, the seed decides.
pub(super) fn held_out<'a>(
    (classes, contents): (&[u32], &[u64]),
    rows: impl Fn(usize) -> &'a [u32],
    share: f64,
    seed: u64,
) -> Vec<bool> {
    let mut groups: HashMap<u64, Vec<usize>> = HashMap::new();
    let mut left: HashMap<u32, Left> = HashMap::new();
    // Training clips of each label.
    let mut kept: HashMap<u32, u64> = HashMap::new();
    for (place, (class, content)) in classes.iter().zip(contents).enumerate() {
        groups.entry(*content).or_default().push(place);
        left.entry(*class).or_default().clips += 1;
        for row in rows(place) {
            *kept.entry(*row).or_default() += 1;
        }
    }
    for left in left.values_mut() {
        left.wanted = (left.clips as f64 * share) as u64;
    }
    // A total order of its own for each seed, so that the order of the map does not matter.
    let mut order: Vec<u64> = groups.keys().copied().collect();
    order.sort_by_key(|content| (rng::splitmix64(*content ^ rng::splitmix64(seed)), *content));
    let mut held: HashMap<u64, bool> = HashMap::with_capacity(order.len());
    for content in order {
        let Some(members) = groups.get(&content) else {
            continue;
        };
        let mut by_class: HashMap<u32, u64> = HashMap::new();
        let mut by_row: HashMap<u32, u64> = HashMap::new();
        for place in members {
            if let Some(class) = classes.get(*place) {
                *by_class.entry(*class).or_default() += 1;
            }
            for row in rows(*place) {
                *by_row.entry(*row).or_default() += 1;
            }
        }
        let is_wanted = by_class
            .iter()
            .all(|(class, count)| left.get(class).is_some_and(|left| left.wanted >= *count));
        let fits = is_wanted
            && by_row
                .iter()
                .all(|(row, count)| kept.get(row).is_some_and(|kept| *kept > *count));
        if fits {
            for (class, count) in by_class {
                if let Some(left) = left.get_mut(&class) {
                    left.wanted -= count;
                }
            }
            for (row, count) in by_row {
                if let Some(kept) = kept.get_mut(&row) {
                    *kept -= count;
                }
            }
        }
        held.insert(content, fits);
    }
    let is_held = |content: &u64| held.get(content).copied().unwrap_or(false);
    classes
        .iter()
        .zip(contents)
        .map(|(_, content)| is_held(content))
        .collect()
}

#[derive(Debug, Default)]
struct Left {
    clips: u64,
    /// Clips that are still to be held out.
    wanted: u64,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(clips: &[(u32, u64)], share: f64, seed: u64) -> Vec<bool> {
        let classes: Vec<u32> = clips.iter().map(|(class, _)| *class).collect();
        let contents: Vec<u64> = clips.iter().map(|(_, content)| *content).collect();
        let rows = |place: usize| &classes[place..=place];
        held_out((&classes[..], &contents[..]), rows, share, seed)
    }

    #[test]
    fn a_label_beside_rarer_ones_keeps_a_clip() {
        // The last label is beside two others, which are as rare and come first.
        let labels: [&[u32]; 4] = [&[0, 2], &[0], &[1, 2], &[1]];
        let (classes, contents) = ([0_u32, 0, 1, 1], [10_u64, 11, 12, 13]);
        for seed in 0..64 {
            let of = (&classes[..], &contents[..]);
            let held = held_out(of, |place| labels[place], 0.5, seed);
            let is_trained = |row: u32| {
                let mut clips = labels.iter().zip(&held);
                clips.any(|(rows, held)| rows.contains(&row) && !held)
            };
            assert!((0..3).all(is_trained), "{held:?}");
            assert_eq!(held.iter().filter(|held| **held).count(), 2, "{held:?}");
        }
    }

    #[test]
    fn every_label_gives_its_share_and_few_clips_give_none() {
        let clips: Vec<(u32, u64)> = (0..64)
            .map(|i| {
                (
                    if i < 10 {
                        0
                    } else if i < 60 {
                        1
                    } else {
                        2
                    },
                    1000 + i,
                )
            })
            .collect();
        let held = of(&clips, 0.2, 7);
        let count = |class| {
            let own = clips
                .iter()
                .zip(&held)
                .filter(|(clip, held)| clip.0 == class && **held);
            own.count()
        };
        assert_eq!([count(0), count(1), count(2)], [2, 10, 0]);
        assert_eq!(held, of(&clips, 0.2, 7));
        assert_ne!(held, of(&clips, 0.2, 8));
        assert!(!of(&clips, 0.0, 7).contains(&true));
    }

    #[test]
    fn equal_contents_stay_together_under_different_labels_too() {
        let clips: Vec<(u32, u64)> = (0..40_u64).map(|i| ((i % 2) as u32, i / 4)).collect();
        for seed in 0..20 {
            let held = of(&clips, 0.3, seed);
            assert!(held.contains(&true));
            for group in held.chunks(4) {
                assert!(group.iter().all(|own| *own == group[0]), "{held:?}");
            }
        }
    }

    proptest! {
        #[test]
        fn every_label_keeps_training_clips(clips in prop::collection::vec((0_u32..4, 0_u64..30), 1..200), share in 0.0_f64..=0.5, seed: u64) {
            let held = of(&clips, share, seed);
            prop_assert_eq!(held.len(), clips.len());
            for class in 0..4 {
                let own: Vec<bool> = clips.iter().zip(&held).filter(|(clip, _)| clip.0 == class).map(|(_, held)| *held).collect();
                let count = own.iter().filter(|held| **held).count();
                prop_assert!(count as f64 <= own.len() as f64 * share);
                prop_assert!(own.is_empty() || count < own.len());
            }
        }
    }
}
