//! Decodes only the groups of pictures that hold wanted frames, and of those only the pictures that the wanted ones need.
//!
//! Invariant: at the first sign that packets and pictures differ (a decoder error, damage, a wanted frame that does not come, another size) it gives up, and
//! everything is decoded instead.

use super::sink::Sink;
use super::{Choice, Places, Refusal, Source, step};
use crate::answer::Warnings;
use crate::ffmpeg::owned::Frame;
use crate::probe::{Frames, Index};
use crate::reject::Reject;

/// Packets that are decoded in a row, from an entry to the last wanted one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Run {
    first: usize,
    last: usize,
    /// Wanted frames in it.
    wanted: usize,
}

/// The runs that wanted time stamps need, ascending; `None` when one of them is no packet's.
fn runs(index: &Index, wanted: impl Iterator<Item = i64>) -> Option<Vec<Run>> {
    let entries: Vec<usize> = (index.entries.iter().enumerate())
        .filter_map(|(place, entry)| entry.is_entry.then_some(place))
        .collect();
    let mut places: Vec<(i64, usize)> = (index.entries.iter().enumerate())
        .filter(|(_, entry)| entry.is_shown)
        .map(|(place, entry)| (entry.pts, place))
        .collect();
    places.sort_unstable();
    let mut runs: Vec<Run> = Vec::new();
    for pts in wanted {
        let found = places.binary_search_by_key(&pts, |&(pts, _)| pts).ok()?;
        let place = places[found].1;
        // Pictures that follow an entry but are shown before it belong to the group before.
        let before = entries.partition_point(|&entry| entry <= place);
        let entry = (entries[..before].iter().rev().copied())
            .find(|&entry| index.entries[entry].pts <= pts)
            .unwrap_or(0);
        match runs.last_mut() {
            Some(run) if entry <= run.last + 1 && place >= run.first => {
                run.last = run.last.max(place);
                run.wanted += 1;
            }
            _ => runs.push(Run {
                first: entry,
                last: place,
                wanted: 1,
            }),
        }
    }
    Some(runs)
}

/// Hands the chosen frames to the sink; `None` when everything has to be decoded.
pub(super) fn decode(
    source: &mut Source<'_>,
    choice: &Choice,
    sink: &mut dyn Sink,
) -> Result<Option<Frames>, Refusal> {
    let index = source.index;
    if index.doubt.is_some() || index.pts.is_empty() {
        return Ok(None);
    }
    let wanted = choice.places_by_time();
    let Some(runs) = runs(index, wanted.keys().copied()) else {
        return Ok(None);
    };
    let mut taking = Taking {
        wanted: &wanted,
        sink,
        came: 0,
        size: None,
        is_sound: true,
    };
    let mut frame = Frame::new().map_err(|_| Reject::Memory)?;
    for (number, run) in runs.iter().enumerate() {
        if number > 0 {
            source.opened.decoder.flush();
        }
        taking.came = 0;
        if !taking.run(source, *run, &mut frame)? {
            return Ok(None);
        }
    }
    Ok(taking.size.map(|size| Frames {
        pts: index.pts.clone(),
        reference_frames: u32::try_from(index.pts.len()).unwrap_or(u32::MAX),
        size,
        is_damaged: false,
        warnings: Warnings::default(),
    }))
}

/// What has come out of the decoder so far.
struct Taking<'a> {
    wanted: &'a Places,
    sink: &'a mut dyn Sink,
    /// Wanted frames of this run.
    came: usize,
    /// Size of all frames.
    size: Option<(u32, u32)>,
    /// Nothing was damaged, and all had one size.
    is_sound: bool,
}

impl Taking<'_> {
    /// Takes a frame that was decoded.
    fn take(&mut self, frame: &Frame) -> Result<(), Refusal> {
        let size = *self.size.get_or_insert(frame.size());
        self.is_sound &= !frame.is_damaged() && frame.size() == size;
        if !self.is_sound {
            // What the sink was given cannot be taken back.
            return Ok(());
        }
        if let Some(slots) = self.wanted.get(&frame.pts()) {
            self.came += 1;
            self.sink.put(frame, slots)?;
        }
        Ok(())
    }

    /// Decodes one run; `false` when it is not what it seemed.
    fn run(
        &mut self,
        source: &mut Source<'_>,
        run: Run,
        frame: &mut Frame,
    ) -> Result<bool, Refusal> {
        let index = source.index;
        let decoder = &mut source.opened.decoder;
        for place in run.first..=run.last {
            if self.came == run.wanted {
                return Ok(true);
            }
            source.budget.check()?;
            let entry = &index.entries[place];
            let is_wanted = entry.is_shown && self.wanted.contains_key(&entry.pts);
            if entry.is_spare && !is_wanted {
                continue;
            }
            let Some(packet) = source.packets.get(place)? else {
                return Ok(false);
            };
            decoder.skip_unreferenced(index.skips_unreferenced && !is_wanted);
            let goes_on = step(decoder, Some(packet), frame, |frame| self.take(frame))?;
            if !goes_on || !self.is_sound {
                return Ok(false);
            }
        }
        if self.came < run.wanted {
            // What is left is inside the decoder.
            let goes_on = step(decoder, None, frame, |frame| self.take(frame))?;
            return Ok(goes_on && self.is_sound && self.came == run.wanted);
        }
        Ok(self.is_sound)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::Entry;

    /// Time stamps in decoding order; entries are marked by being doubled.
    fn index(pts: &[(i64, bool)]) -> Index {
        Index {
            packets: None,
            entries: (pts.iter())
                .map(|&(pts, is_entry)| Entry::of(pts, is_entry))
                .collect(),
            pts: Vec::new(),
            doubt: None,
            skips_unreferenced: true,
        }
    }

    fn planned(index: &Index, wanted: &[i64]) -> Option<Vec<(usize, usize, usize)>> {
        let runs = runs(index, wanted.iter().copied())?;
        Some(
            runs.iter()
                .map(|run| (run.first, run.last, run.wanted))
                .collect(),
        )
    }

    #[test]
    fn groups_without_wanted_frames_are_left_out() {
        let pts: Vec<(i64, bool)> = (0..30).map(|i| (i, i % 10 == 0)).collect();
        let index = index(&pts);
        assert_eq!(
            planned(&index, &[2, 5, 23]),
            Some(vec![(0, 5, 2), (20, 23, 1)])
        );
        assert_eq!(planned(&index, &[9, 12]), Some(vec![(0, 12, 2)]));
        assert_eq!(planned(&index, &[20]), Some(vec![(20, 20, 1)]));
        assert_eq!(planned(&index, &[99]), None);
    }

    #[test]
    fn leading_pictures_belong_to_the_group_before() {
        // An open group: the entry is shown at 5, and 3 and 4 follow it.
        let open = index(&[
            (0, true),
            (2, false),
            (1, false),
            (5, true),
            (3, false),
            (4, false),
            (6, false),
        ]);
        assert_eq!(planned(&open, &[4]), Some(vec![(0, 5, 1)]));
        assert_eq!(planned(&open, &[5]), Some(vec![(3, 3, 1)]));
        assert_eq!(planned(&open, &[4, 6]), Some(vec![(0, 6, 2)]));
    }
}
