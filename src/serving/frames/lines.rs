//! The different ways in which the tasks of a stream take clips from it.
//!
//! Invariant: tasks that take the same clips share them, and all windows of a stream end at the same times.

use std::time::Duration;

use super::sampler::{Grid, Line};
use super::{Error, Pace};
use crate::engine::Load;
use crate::spec::{ClipSampling, Invalid, Sampling, SpatialViews};

/// Most frames whose views a stream may hold.
const MOST_FRAMES: u64 = 1024;
/// Shortest and longest step and stride.
const TIMES: std::ops::RangeInclusive<Duration> =
    Duration::from_millis(1)..=Duration::from_secs(3600);
/// Longest gap that can be asked for.
const LONGEST_GAP: Duration = Duration::from_secs(24 * 3600);
/// Largest step and stride in frames.
const FRAMES: std::ops::RangeInclusive<u32> = 1..=1_000_000;

/// The clips of one way of sampling.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Clips {
    pub(super) line: Line,
    pub(super) views: SpatialViews,
}

/// All ways of a stream, each once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Lines {
    pub(super) distinct: Vec<Clips>,
    /// Place of each task among the distinct ones.
    pub(super) places: Vec<usize>,
    /// Sampling of each task when the stream opened.
    pub(super) samplings: Vec<ClipSampling>,
    pub(super) grid: Grid,
    /// Whether ticks are numbers of frames.
    pub(super) by_frames: bool,
}

impl Lines {
    /// The lines of tasks with these samplings.
    ///
    /// # Errors
    /// [`Error::Invalid`] names what is out of range.
    pub(super) fn of(samplings: &[ClipSampling], pace: Pace) -> Result<Self, Error> {
        let mut distinct = Vec::new();
        let mut places = Vec::new();
        for sampling in samplings {
            let clips = Clips {
                line: Line {
                    frames: sampling.num_frames.get(),
                    step: step(sampling, pace)?,
                },
                views: sampling.spatial_views,
            };
            let known = distinct.iter().position(|own| *own == clips);
            places.push(known.unwrap_or(distinct.len()));
            if known.is_none() {
                distinct.push(clips);
            }
        }
        let (stride, longest_gap) = match pace {
            Pace::Frames { stride, .. } => (frames("frames.stride", stride)?, None),
            Pace::Time {
                step,
                stride,
                longest_gap,
            } => {
                let usual = (2 * step).max(Duration::from_secs(1));
                let gap = longest_gap.unwrap_or(usual);
                if gap < step || gap > LONGEST_GAP {
                    let problem = format!("expected the step to {LONGEST_GAP:?}, got {gap:?}");
                    return Err(Invalid::new("time.max_gap", problem).into());
                }
                (time("time.stride", stride)?, Some(nanos(gap)))
            }
        };
        let mut lines: Vec<Line> = distinct.iter().map(|clips| clips.line).collect();
        lines.sort_by_key(|line| (line.frames, line.step));
        lines.dedup();
        let grid = Grid {
            lines,
            stride,
            longest_gap,
        };
        let kept = grid.most_frames();
        if kept > MOST_FRAMES {
            let field = match pace {
                Pace::Frames { .. } => "frames.stride",
                Pace::Time { .. } => "time.stride",
            };
            let problem = format!(
                "windows would need {kept} frames at a time, at most {MOST_FRAMES}: take a longer stride, one that is a multiple of the step, or a shorter step"
            );
            return Err(Invalid::new(field, problem).into());
        }
        Ok(Self {
            distinct,
            places,
            samplings: samplings.to_vec(),
            grid,
            by_frames: matches!(pace, Pace::Frames { .. }),
        })
    }

    /// The views that every frame has to have: the centre is the middle one of three.
    pub(super) fn views(&self) -> SpatialViews {
        let are_three = |clips: &Clips| clips.views == SpatialViews::Three;
        match self.distinct.iter().any(are_three) {
            true => SpatialViews::Three,
            false => SpatialViews::Center,
        }
    }

    /// Number of the views of a frame.
    pub(super) fn view_count(&self) -> usize {
        match self.views() {
            SpatialViews::Center => 1,
            SpatialViews::Three => 3,
        }
    }

    /// The places of a clip's views among those of a frame.
    pub(super) fn views_of(&self, clips: Clips) -> &'static [usize] {
        match (clips.views, self.views()) {
            (SpatialViews::Three, _) => &[0, 1, 2],
            (SpatialViews::Center, SpatialViews::Three) => &[1],
            (SpatialViews::Center, SpatialViews::Center) => &[0],
        }
    }

    /// Most frames that are held at a time.
    pub(super) fn most_frames(&self) -> u64 {
        self.grid.most_frames()
    }

    /// Number of frames of all clips of one window; frames that lines share count for each.
    pub(super) fn window_frames(&self) -> u64 {
        let frames = self.distinct.iter().map(|clips| clips.line.frames);
        frames.map(u64::from).sum()
    }

    /// Whether two windows that follow each other can show the same frame.
    pub(super) fn overlap(&self) -> bool {
        let reaches = |line: &Line| self.grid.stride <= i64::from(line.frames - 1) * line.step;
        self.grid.lines.iter().any(reaches)
    }

    /// What the engine has to have room for.
    pub(super) fn loads(&self) -> Vec<Load> {
        let load = |(place, clips): (usize, &Clips)| Load {
            clips: self.views_of(*clips).len(),
            frames: clips.line.frames.into(),
            readers: self.places.iter().filter(|own| **own == place).count(),
        };
        self.distinct.iter().enumerate().map(load).collect()
    }
}

/// Ticks from one frame of a task's clips to the next.
fn step(sampling: &ClipSampling, pace: Pace) -> Result<i64, Error> {
    match (pace, sampling.sampling) {
        (Pace::Time { step, .. }, _) => time("time.step", step),
        (
            Pace::Frames {
                step: Some(step), ..
            },
            _,
        ) => frames("frames.step", step),
        (Pace::Frames { step: None, .. }, Sampling::Strided(rate)) => {
            frames("frames.step", rate.get())
        }
        (Pace::Frames { step: None, .. }, Sampling::Uniform) => {
            let problem = "required: the task spreads its frames over whole videos and has no step of its own";
            Err(Invalid::new("frames.step", problem).into())
        }
    }
}

fn frames(field: &'static str, number: u32) -> Result<i64, Error> {
    if FRAMES.contains(&number) {
        return Ok(number.into());
    }
    let (least, most) = FRAMES.into_inner();
    let problem = format!("expected {least} to {most}, got {number}");
    Err(Invalid::new(field, problem).into())
}

fn time(field: &'static str, time: Duration) -> Result<i64, Error> {
    if TIMES.contains(&time) {
        return Ok(nanos(time));
    }
    let (least, most) = TIMES.into_inner();
    let problem = format!("expected {least:?} to {most:?}, got {time:?}");
    Err(Invalid::new(field, problem).into())
}

/// A time in nanoseconds, as long as it is below 292 years.
pub(super) fn nanos(time: Duration) -> i64 {
    i64::try_from(time.as_nanos()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sampling(frames: u16, sampling: Sampling, spatial_views: SpatialViews) -> ClipSampling {
        ClipSampling {
            sampling,
            spatial_views,
            ..ClipSampling::uniform(frames.try_into().unwrap())
        }
    }

    fn strided(rate: u32) -> Sampling {
        Sampling::Strided(rate.try_into().unwrap())
    }

    fn refused(pace: Pace) -> &'static str {
        let task = sampling(8, Sampling::Uniform, SpatialViews::Center);
        match Lines::of(&[task], pace) {
            Err(Error::Invalid(invalid)) => invalid.field,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn tasks_share_clips_and_the_centre_is_one_of_three_views() {
        let centre = sampling(8, strided(4), SpatialViews::Center);
        let three = sampling(8, strided(4), SpatialViews::Three);
        let pace = Pace::Frames {
            step: None,
            stride: 4,
        };
        let lines = Lines::of(&[centre, three, centre], pace).unwrap();
        assert_eq!(lines.places, [0, 1, 0]);
        assert_eq!((lines.view_count(), lines.grid.lines.len()), (3, 1));
        assert_eq!(lines.views_of(lines.distinct[0]), [1]);
        let loads = lines.loads();
        assert_eq!((loads[0].clips, loads[0].readers), (1, 2));
        assert_eq!((loads[1].clips, loads[1].readers), (3, 1));
        let alone = Lines::of(&[centre], pace).unwrap();
        assert_eq!(alone.views_of(alone.distinct[0]), [0]);
        let apart = |stride| Pace::Frames { step: None, stride };
        assert!(Lines::of(&[centre], apart(28)).unwrap().overlap());
        assert!(!Lines::of(&[centre], apart(29)).unwrap().overlap());
        // Eight frames of one phase, and two more.
        assert_eq!(alone.most_frames(), 10);
        assert_eq!((alone.window_frames(), lines.window_frames()), (8, 16));
    }

    #[test]
    fn what_is_out_of_range_is_named() {
        let time = |step, stride, gap: Option<u64>| Pace::Time {
            step: Duration::from_millis(step),
            stride: Duration::from_millis(stride),
            longest_gap: gap.map(Duration::from_millis),
        };
        let frames = |step, stride| Pace::Frames { step, stride };
        for (pace, field) in [
            (frames(None, 1), "frames.step"),
            (frames(Some(0), 1), "frames.step"),
            (frames(Some(1), 0), "frames.stride"),
            (time(0, 100, None), "time.step"),
            (time(100, 0, None), "time.stride"),
            (time(100, 100, Some(99)), "time.max_gap"),
            (time(100, 100, Some(90_000_000)), "time.max_gap"),
            (time(3_600_000, 1, None), "time.stride"),
        ] {
            assert_eq!(refused(pace), field, "{pace:?}");
        }
    }
}
