//! The frames of a wholly decoded video in their order: which are kept, and when each is shown. Pure.
//!
//! Invariant: in the order of display every frame that was decoded is kept, in the decoder's order, and times never go back; in the order of the reference
//! frames have distinct, ascending time stamps.

use crate::answer::{Warning, Warnings};
use crate::ffmpeg::codec::NO_TIME;
use crate::probe::Entry;
use crate::spec::FrameOrder;

/// What the packet of a decoded frame says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    /// Time of presentation; [`NO_TIME`] when there is none.
    pub(super) pts: i64,
    /// Time of decoding; [`NO_TIME`] when there is none.
    pub(super) dts: i64,
    /// Number of the recording: a file may be several, joined.
    pub(super) part: u32,
}

impl Stamp {
    /// The frame of no known packet.
    pub(super) const UNKNOWN: Self = Self {
        pts: NO_TIME,
        dts: NO_TIME,
        part: 0,
    };

    /// The time of presentation, else of decoding.
    fn time(self) -> Option<i64> {
        [self.pts, self.dts]
            .into_iter()
            .find(|&time| time != NO_TIME)
    }
}

/// The frames in their order.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Timetable {
    /// Time stamps in the order of the frames, ascending; distinct in the order of the reference.
    pub(super) pts: Vec<i64>,
    /// Frames in the order of the reference.
    pub(super) reference_frames: u32,
    /// What is odd about the time stamps.
    pub(super) warnings: Warnings,
}

/// The recordings of which a file consists: where the times of decoding jump back, another one begins. Gives each packet's, or nothing when there is one.
pub(super) fn parts(entries: &[Entry]) -> Vec<u32> {
    /// A demuxer that guesses the times of decoding may be wrong by a few pictures.
    const STEPS: i64 = 4;
    let times = || entries.iter().filter_map(Entry::decoding_time);
    if times().is_sorted() {
        return Vec::new();
    }
    let mut steps: Vec<i64> = std::iter::zip(times(), times().skip(1))
        .map(|(time, next)| next.saturating_sub(time))
        .filter(|&step| step > 0)
        .collect();
    steps.sort_unstable();
    let step = steps.get(steps.len() / 2).copied().unwrap_or(1);
    let (mut part, mut first, mut latest) = (0, i64::MIN, i64::MIN);
    (entries.iter())
        .map(|entry| {
            if let Some(time) = entry.decoding_time() {
                let back = latest.saturating_sub(time);
                if latest == i64::MIN {
                    (first, latest) = (time, time);
                } else if back > 0 && (time <= first || back > step.saturating_mul(STEPS)) {
                    part += 1;
                    (first, latest) = (time, time);
                } else {
                    latest = latest.max(time);
                }
            }
            part
        })
        .collect()
}

/// Puts frames that came out of the decoder in this order into the order that is wanted. `step` is the time from one frame to the next where nothing else
/// says it.
pub(super) fn timetable(order: FrameOrder, shown: &[Stamp], step: i64) -> Timetable {
    let mut distinct: Vec<i64> = shown.iter().map(|stamp| stamp.pts).collect();
    distinct.sort_unstable();
    distinct.dedup();
    let (pts, warnings) = played(shown, step.max(1));
    Timetable {
        reference_frames: u32::try_from(distinct.len()).unwrap_or(u32::MAX),
        pts: match order {
            FrameOrder::Display => pts,
            FrameOrder::Reference => distinct,
        },
        warnings,
    }
}

/// When a player shows each frame, in its order.
fn played(shown: &[Stamp], mut step: i64) -> (Vec<i64>, Warnings) {
    let is_timed = shown.iter().all(|stamp| stamp.pts != NO_TIME);
    if is_timed && shown.is_sorted_by(|one, next| one.pts < next.pts) {
        // Whatever the times of decoding are.
        let pts = shown.iter().map(|stamp| stamp.pts).collect();
        return (pts, Warnings::default());
    }
    let (mut pts, mut warnings) = (Vec::with_capacity(shown.len()), Warnings::default());
    let mut rest = shown;
    while let Some(begin) = rest.first() {
        // Frames of an earlier recording do not come after those of a later one.
        let length = (rest.iter())
            .take_while(|stamp| stamp.part <= begin.part)
            .count();
        let (own, later) = rest.split_at(length);
        rest = later;
        let recording = Recording::new(own, &mut warnings);
        // Time goes on where a recording begins.
        let shift = match pts.last() {
            Some(&last) => {
                warnings.insert(Warning::Restarted);
                i64::saturating_add(last, step).saturating_sub(recording.origin())
            }
            None => 0,
        };
        step = recording.play(own, (shift, step), &mut pts);
    }
    (pts, warnings)
}

/// The times of one recording's frames, ascending.
struct Recording(Vec<i64>);

impl Recording {
    /// The recording of these frames; notes what is odd about their time stamps.
    fn new(own: &[Stamp], warnings: &mut Warnings) -> Self {
        let mut times: Vec<i64> = own.iter().filter_map(|stamp| stamp.time()).collect();
        if !times.is_sorted() {
            warnings.insert(Warning::Shuffled);
            times.sort_unstable();
        }
        let untimed = own.iter().filter(|stamp| stamp.pts == NO_TIME).count();
        if times.windows(2).any(|pair| pair[0] == pair[1]) || untimed > 1 {
            warnings.insert(Warning::Repeated);
        }
        Self(times)
    }

    /// The first time, 0 when there is none.
    fn origin(&self) -> i64 {
        self.0.first().copied().unwrap_or(0)
    }

    /// Appends when each frame is shown, `shift` later than its time says; returns the time from one frame to the next, `step` when it is unknown.
    fn play(self, own: &[Stamp], (shift, step): (i64, i64), pts: &mut Vec<i64>) -> i64 {
        let (start, origin) = (pts.len(), self.origin());
        let mut times = self.0.into_iter();
        for stamp in own {
            let next = stamp.time().and_then(|_| times.next());
            let time = match (next, pts[start..].last()) {
                (Some(time), _) => time.saturating_add(shift),
                (None, Some(&last)) => last.saturating_add(step),
                (None, None) => origin.saturating_add(shift),
            };
            // Also where times are so large that no shift puts them after those of the recording before.
            pts.push(pts.last().map_or(time, |&last| time.max(last)));
        }
        let (first, last) = (pts.get(start).copied(), pts.last().copied());
        let length = last.unwrap_or(0).saturating_sub(first.unwrap_or(0));
        let steps = i64::try_from(own.len()).unwrap_or(i64::MAX);
        let mean = length.checked_div(steps.saturating_sub(1));
        mean.filter(|&mean| mean > 0).unwrap_or(step)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamps(pts: &[(i64, u32)]) -> Vec<Stamp> {
        let stamp = |&(pts, part): &(i64, u32)| Stamp {
            pts,
            dts: NO_TIME,
            part,
        };
        pts.iter().map(stamp).collect()
    }

    fn of(order: FrameOrder, pts: &[(i64, u32)]) -> (Vec<i64>, Vec<&'static str>) {
        let table = timetable(order, &stamps(pts), 10);
        let warnings = table.warnings.iter().map(|own| own.name()).collect();
        (table.pts, warnings)
    }

    #[test]
    fn time_goes_on_where_a_recording_begins() {
        let joined = [(0, 0), (4, 0), (8, 0), (0, 1), (4, 1), (8, 1)];
        let (pts, warnings) = of(FrameOrder::Display, &joined);
        assert_eq!(pts, [0, 4, 8, 12, 16, 20]);
        assert_eq!(warnings, ["RESTARTED_TIME_STAMPS"]);
        assert_eq!(of(FrameOrder::Reference, &joined).0, [0, 4, 8]);
        // A recording of one frame says nothing of the step.
        let (pts, _) = of(FrameOrder::Display, &[(7, 0), (7, 1)]);
        assert_eq!(pts, [7, 17]);
    }

    #[test]
    fn frames_with_equal_time_stamps_are_kept() {
        let rounded = [(0, 0), (0, 0), (1, 0), (1, 0), (2, 0)];
        let (pts, warnings) = of(FrameOrder::Display, &rounded);
        assert_eq!(pts, [0, 0, 1, 1, 2]);
        assert_eq!(warnings, ["REPEATED_TIME_STAMPS"]);
        assert_eq!(of(FrameOrder::Reference, &rounded).0, [0, 1, 2]);
        let untimed = [(NO_TIME, 0), (NO_TIME, 0), (NO_TIME, 0)];
        let (pts, warnings) = of(FrameOrder::Display, &untimed);
        assert_eq!(pts, [0, 10, 20]);
        assert_eq!(warnings, ["REPEATED_TIME_STAMPS"]);
    }

    #[test]
    fn shuffled_times_belong_to_the_frames_in_the_order_of_the_decoder() {
        let shuffled = [(0, 0), (3, 0), (1, 0), (2, 0), (4, 0)];
        let (pts, warnings) = of(FrameOrder::Display, &shuffled);
        assert_eq!(pts, [0, 1, 2, 3, 4]);
        assert_eq!(warnings, ["SHUFFLED_TIME_STAMPS"]);
        let (pts, warnings) = of(FrameOrder::Display, &[(5, 0), (6, 1), (8, 1)]);
        assert_eq!(pts, [5, 6, 8]);
        assert!(warnings.is_empty());
    }

    #[test]
    fn a_recording_begins_where_the_times_of_decoding_jump_back() {
        let entries = |times: &[i64]| -> Vec<Entry> {
            times.iter().map(|&time| Entry::decoded_at(time)).collect()
        };
        assert!(parts(&entries(&[0, 4, 8])).is_empty());
        assert_eq!(parts(&entries(&[0, 4, 8, 0, 4])), [0, 0, 0, 1, 1]);
        let later = [0, 4, 8, 12, 16, 20, 24, 28, 2, 6, 10];
        assert_eq!(parts(&entries(&later)), [0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1]);
        // A guess that is a little wrong is none.
        assert_eq!(parts(&entries(&[0, 4, 8, 6, 12])), [0, 0, 0, 0, 0]);
    }

    #[test]
    fn times_never_go_back_whatever_the_stamps_are() {
        let mut random = crate::rng::Stream::new(8, "stamps");
        for _ in 0..500 {
            let count = 1 + random.below(40);
            let shown: Vec<Stamp> = (0..count)
                .map(|_| {
                    let mut time = || match random.below(8) {
                        0 => NO_TIME,
                        1 => i64::MAX,
                        2 => -1_000_000,
                        _ => random.below(50) as i64,
                    };
                    let (pts, dts) = (time(), time());
                    Stamp {
                        pts,
                        dts,
                        part: random.below(3) as u32,
                    }
                })
                .collect();
            let display = timetable(FrameOrder::Display, &shown, 1);
            assert_eq!(display.pts.len(), shown.len());
            assert!(display.pts.is_sorted(), "{shown:?}");
            let reference = timetable(FrameOrder::Reference, &shown, 1);
            assert!(reference.pts.is_sorted_by(|one, next| one < next));
            assert_eq!(reference.pts.len(), reference.reference_frames as usize);
        }
    }
}
