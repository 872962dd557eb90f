//! Stretches of a video in which a label's score is high: pure.
//!
//! Invariant: what is held is one open stretch for each label that has one, and a bounded number of those that ended.

use std::cmp::Ordering;
use std::time::Duration;

/// Options by which segments are found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SegmentOptions {
    /// Least score of the label in the window with which a segment begins.
    pub enter: f64,
    /// Least score of the label with which a segment goes on.
    pub leave: f64,
    /// Shortest duration of a segment; shorter ones are left out.
    pub min_duration: Duration,
    /// Most segments of a task, best first.
    pub count: usize,
}

/// A stretch of a video in which a label's score is high.
#[derive(Debug, Clone, PartialEq)]
pub struct Segment {
    /// Index of the label.
    pub label: usize,
    /// Beginning of the first window.
    pub start: Duration,
    /// End of the last window.
    pub end: Duration,
    /// Highest score of a window.
    pub peak: f64,
    /// Beginning of the window with the highest score.
    pub peak_at: Duration,
    /// Mean score of the windows.
    pub mean: f64,
    /// Number of windows of the segment.
    pub windows: u64,
}

impl Segment {
    fn duration(&self) -> Duration {
        self.end.saturating_sub(self.start)
    }

    /// The higher peak first; then the longer one, the earlier one, the label.
    fn order(&self, other: &Self) -> Ordering {
        (other.peak.total_cmp(&self.peak))
            .then_with(|| other.duration().cmp(&self.duration()))
            .then_with(|| self.start.cmp(&other.start))
            .then_with(|| self.label.cmp(&other.label))
    }
}

/// Finds the segments of one task's windows, which come in order.
#[derive(Debug)]
pub(super) struct Segments {
    options: SegmentOptions,
    /// The open segment of each label; its mean is a sum until it ends.
    open: Vec<Option<Segment>>,
    ended: Vec<Segment>,
}

impl Segments {
    pub(super) fn new(options: SegmentOptions, labels: usize) -> Self {
        Self {
            options,
            open: vec![None; labels],
            ended: Vec::new(),
        }
    }

    /// Adds the scores of the next window.
    pub(super) fn add(&mut self, start: Duration, end: Duration, scores: &[f64]) {
        for (label, &score) in scores.iter().enumerate().take(self.open.len()) {
            let open = &mut self.open[label];
            match open {
                Some(segment) if score >= self.options.leave => {
                    segment.end = segment.end.max(end);
                    segment.mean += score;
                    segment.windows += 1;
                    if score > segment.peak {
                        (segment.peak, segment.peak_at) = (score, start);
                    }
                }
                Some(_) => {
                    if let Some(segment) = open.take() {
                        self.end(segment);
                    }
                }
                None if score >= self.options.enter => {
                    *open = Some(Segment {
                        label,
                        start,
                        end,
                        peak: score,
                        peak_at: start,
                        mean: score,
                        windows: 1,
                    });
                }
                None => {}
            }
        }
    }

    fn end(&mut self, mut segment: Segment) {
        segment.mean /= segment.windows as f64;
        if segment.duration() < self.options.min_duration {
            return;
        }
        self.ended.push(segment);
        if self.ended.len() > 2 * self.options.count {
            self.keep_best();
        }
    }

    fn keep_best(&mut self) {
        self.ended.sort_by(Segment::order);
        self.ended.truncate(self.options.count);
    }

    /// Ends every open segment and returns the best ones.
    pub(super) fn finish(mut self) -> Vec<Segment> {
        for segment in std::mem::take(&mut self.open).into_iter().flatten() {
            self.end(segment);
        }
        self.keep_best();
        self.ended
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const OPTIONS: SegmentOptions = SegmentOptions {
        enter: 0.5,
        leave: 0.4,
        min_duration: Duration::ZERO,
        count: 10,
    };

    /// Segments of one label's scores in windows of 2 s, one each second.
    fn found(options: SegmentOptions, scores: &[f64]) -> Vec<Segment> {
        let mut segments = Segments::new(options, 1);
        for (second, score) in (0..).zip(scores) {
            let at = Duration::from_secs;
            segments.add(at(second), at(second + 2), &[*score]);
        }
        segments.finish()
    }

    #[test]
    fn a_segment_goes_on_through_a_dip_that_is_not_deep() {
        let segments = found(OPTIONS, &[0.1, 0.45, 0.6, 0.4, 0.9, 0.39, 0.45, 0.5]);
        let short: Vec<_> = (segments.iter())
            .map(|own| (own.start.as_secs(), own.end.as_secs(), own.windows))
            .collect();
        assert_eq!(short, [(2, 6, 3), (7, 9, 1)]);
        assert_eq!(segments[0].peak, 0.9);
        assert_eq!(segments[0].peak_at, Duration::from_secs(4));
        assert!((segments[0].mean - 1.9 / 3.0).abs() < 1e-12);
    }

    #[test]
    fn short_segments_and_those_beyond_the_number_are_left_out() {
        let scores = [0.6, 0.0, 0.7, 0.7, 0.0, 0.9, 0.9];
        let long = SegmentOptions {
            min_duration: Duration::from_secs(3),
            ..OPTIONS
        };
        let starts = |options, scores: &[f64]| {
            let segments = found(options, scores);
            segments
                .iter()
                .map(|own| own.start.as_secs())
                .collect::<Vec<_>>()
        };
        assert_eq!(starts(long, &scores), [5, 2]);
        let one = SegmentOptions {
            count: 1,
            ..OPTIONS
        };
        assert_eq!(starts(one, &scores), [5]);
        assert_eq!(starts(OPTIONS, &scores), [5, 2, 0]);
        assert!(starts(OPTIONS, &[0.1, 0.49]).is_empty());
    }

    proptest! {
        #[test]
        fn segments_of_a_label_do_not_share_windows_and_each_has_entered(
            scores in prop::collection::vec(0.0_f64..1.0, 0..200),
        ) {
            let count = 1000;
            let mut segments = found(SegmentOptions { count, ..OPTIONS }, &scores);
            segments.sort_by_key(|segment| segment.start);
            for pair in segments.windows(2) {
                prop_assert!(pair[0].start + Duration::from_secs(pair[0].windows) < pair[1].start);
            }
            for segment in &segments {
                prop_assert!(segment.peak >= OPTIONS.enter && segment.mean >= OPTIONS.leave);
            }
            let high = scores.iter().filter(|&&score| score >= OPTIONS.enter).count() as u64;
            let held: u64 = segments.iter().map(|segment| segment.windows).sum();
            prop_assert!(held >= high);
        }
    }
}
