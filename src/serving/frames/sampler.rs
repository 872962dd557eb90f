//! Decides which frames of a live stream windows need, and when windows end. Pure: a tick is a nanosecond, or the number of a frame.
//!
//! Invariant: a window shows at each of its due times the frame that is nearest to it, the earlier of two; a frame that no window needs is given back
//! unread, and nothing is held but the last frame.

/// Frames in a row that go back in time, after which the source's clock is taken to have been set back.
pub(super) const BACK: u32 = 32;

/// Clips of one way of sampling: their number of frames, and the ticks between two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) frames: u16,
    /// More than 0.
    pub(super) step: i64,
}

impl Line {
    /// Ticks from a clip's first frame to its last.
    pub(super) fn span(self) -> i64 {
        (i64::from(self.frames) - 1).saturating_mul(self.step)
    }

    /// The due times of a window that ends at a tick, the earliest first.
    pub(super) fn dues(self, end: i64) -> impl Iterator<Item = i64> {
        (0..i64::from(self.frames)).map(move |slot| end - self.span() + slot * self.step)
    }
}

/// When windows end, and what they show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Grid {
    /// At least one.
    pub(super) lines: Vec<Line>,
    /// Ticks from the end of a window to that of the next; more than 0.
    pub(super) stride: i64,
    /// Time without a frame after which windows start over.
    pub(super) longest_gap: Option<i64>,
}

impl Grid {
    /// Ticks from the first due time of a window to its end.
    pub(super) fn span(&self) -> i64 {
        let spans = self.lines.iter().map(|line| line.span());
        spans.max().unwrap_or(0)
    }

    /// Most frames that windows that have not ended need at a time, and two more: the newest, and one that comes.
    pub(super) fn most_frames(&self) -> u64 {
        let of_line = |line: &Line| {
            let span = line.span().unsigned_abs();
            let (stride, step) = (self.stride.unsigned_abs(), line.step.unsigned_abs());
            // Due times of all windows are multiples of what stride and step have in common, and no window has more than its frames.
            let common = span / divisor(stride, step).max(1) + 1;
            let windows = span / stride.max(1) + 1;
            common.min(windows.saturating_mul(line.frames.into()))
        };
        // Frames that lines share are counted for each of them: too many rather than too few.
        let counts = self.lines.iter().map(of_line);
        counts.fold(2, u64::saturating_add)
    }
}

fn divisor(a: u64, b: u64) -> u64 {
    match b {
        0 => a,
        b => divisor(b, a % b),
    }
}

/// Reason why windows start over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Restart {
    /// Nothing came for longer than the longest gap.
    Gap,
    /// The source's clock was set back.
    Clock,
}

/// A window that ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ended {
    /// Tick of the window's end.
    pub(super) end: i64,
    /// Number of the window among all of the stream, from 0.
    pub(super) number: u64,
    /// Windows before it that ended with the same frame and are left out.
    pub(super) left_out: u64,
}

/// What becomes of a frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Offered<F> {
    /// A frame with this time was there already.
    Duplicate,
    /// The time is before that of the last frame.
    Late,
    /// The frame is taken.
    Taken {
        /// Whether windows start over with the frame.
        restart: Option<Restart>,
        /// Frames that windows need, in the order of their times: the one before, this one, both or none.
        wanted: Vec<(i64, F)>,
        /// The window that ends with it.
        ended: Option<Ended>,
    },
}

/// The last frame that was taken.
#[derive(Debug)]
struct Last<F> {
    tick: i64,
    /// `None` once it was wanted.
    frame: Option<F>,
}

/// Chooses among frames as they come.
#[derive(Debug)]
pub(super) struct Sampler<F> {
    grid: Grid,
    last: Option<Last<F>>,
    /// End of the first window since windows last started over.
    first_end: i64,
    /// Windows that have ended since then.
    done: i64,
    /// Windows that have ended before.
    before: u64,
    /// Late frames in a row.
    back: u32,
}

impl<F> Sampler<F> {
    pub(super) fn new(grid: Grid) -> Self {
        Self {
            grid,
            last: None,
            first_end: 0,
            done: 0,
            before: 0,
            back: 0,
        }
    }

    /// Takes a frame at a tick that is not negative.
    pub(super) fn offer(&mut self, tick: i64, frame: F) -> Offered<F> {
        let mut restart = None;
        if let Some(last) = &self.last {
            if tick <= last.tick {
                self.back += 1;
                if self.back < BACK {
                    return match tick == last.tick {
                        true => Offered::Duplicate,
                        false => Offered::Late,
                    };
                }
                restart = Some(Restart::Clock);
            } else if (self.grid.longest_gap).is_some_and(|longest| tick - last.tick > longest) {
                restart = Some(Restart::Gap);
            }
        }
        self.back = 0;
        if restart.is_some() {
            self.last = None;
            self.before += self.done.unsigned_abs();
        }
        let mut wanted = Vec::new();
        let is_wanted = match &mut self.last {
            None => {
                self.first_end = tick.saturating_add(self.grid.span());
                self.done = 0;
                true
            }
            Some(_) => {
                let previous = self.last.as_ref().map_or(tick, |last| last.tick);
                // Of two frames that are as near the earlier one is shown.
                let middle = previous + (tick - previous) / 2;
                let of_previous = self.is_due(previous + 1, middle);
                if of_previous
                    && let Some(last) = &mut self.last
                    && let Some(frame) = last.frame.take()
                {
                    wanted.push((previous, frame));
                }
                self.is_due(middle + 1, tick)
            }
        };
        let mut own = Some(frame);
        if is_wanted && let Some(frame) = own.take() {
            wanted.push((tick, frame));
        }
        self.last = Some(Last { tick, frame: own });
        Offered::Taken {
            restart,
            wanted,
            ended: self.end(tick),
        }
    }

    /// Whether a window that has not ended has a due time from `from` to `to`.
    pub(super) fn is_due(&self, from: i64, to: i64) -> bool {
        let stride = self.grid.stride;
        let reaches = |back: i64| {
            // The first window from here on whose due time is not before `from`.
            let ahead = from - (self.first_end - back);
            let windows = ahead.div_euclid(stride) + i64::from(ahead.rem_euclid(stride) != 0);
            let window = windows.max(self.done);
            self.first_end
                .saturating_add(window.saturating_mul(stride))
                .saturating_sub(back)
                <= to
        };
        from <= to
            && (self.grid.lines.iter())
                .any(|line| (0..i64::from(line.frames)).any(|slot| reaches(slot * line.step)))
    }

    /// The last window that ends at this tick or before and has not ended yet.
    fn end(&mut self, tick: i64) -> Option<Ended> {
        let since = tick
            .checked_sub(self.first_end)
            .filter(|since| *since >= 0)?;
        let ended = since / self.grid.stride + 1;
        let left_out = (ended - self.done)
            .checked_sub(1)
            .filter(|left| *left >= 0)?;
        self.done = ended;
        Some(Ended {
            end: self.first_end + (ended - 1) * self.grid.stride,
            number: self.before + (ended - 1).unsigned_abs(),
            left_out: left_out.unsigned_abs(),
        })
    }

    /// The earliest due time of the windows that have not ended.
    pub(super) fn earliest(&self) -> i64 {
        self.first_end
            .saturating_add(self.done.saturating_mul(self.grid.stride))
            .saturating_sub(self.grid.span())
    }
}

#[cfg(test)]
mod tests;
