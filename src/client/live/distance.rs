//! Distances of pictures and windows: numbers of pictures, or times.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::Options;
use crate::client::Error;
use crate::proto::v1::{self, classify_frames_header::Pace};

/// A distance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Distance {
    /// So many pictures.
    Frames(u32),
    /// A time.
    Time(Duration),
}

impl FromStr for Distance {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(frames) = text.parse() {
            return Ok(Self::Frames(frames));
        }
        let time = humantime::parse_duration(text);
        time.map(Self::Time)
            .map_err(|_| "expected a number of frames, or a time such as 250ms".to_owned())
    }
}

impl fmt::Display for Distance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Frames(frames) => frames.fmt(f),
            Self::Time(time) => humantime::format_duration(*time).fmt(f),
        }
    }
}

/// The distances as the API takes them.
pub(super) fn pace(options: &Options) -> Result<Pace, Error> {
    let usage = |problem: &str| Err(Error::Usage(problem.to_owned()));
    let step = match (options.step, options.stride) {
        (Some(Distance::Time(step)), Distance::Time(stride)) => (step, stride),
        (None, Distance::Frames(stride)) => return frames(options, 0, stride),
        (Some(Distance::Frames(step)), Distance::Frames(stride)) => {
            return frames(options, step, stride);
        }
        (None, Distance::Time(_)) => {
            return usage("--stride: with a time, --step has to be given as a time, too");
        }
        (Some(_), _) => return usage("--step and --stride: either numbers of frames or times"),
    };
    let (step, stride) = step;
    let time = |time: Duration| {
        let problem = |_| Error::Usage(format!("{time:?} is too long"));
        prost_types::Duration::try_from(time).map_err(problem)
    };
    Ok(Pace::Time(v1::TimePace {
        step: Some(time(step)?),
        stride: Some(time(stride)?),
        max_gap: options.max_gap.map(time).transpose()?,
    }))
}

fn frames(options: &Options, step: u32, stride: u32) -> Result<Pace, Error> {
    match options.max_gap {
        None => Ok(Pace::Frames(v1::FramePace { step, stride })),
        Some(_) => {
            let problem = "--max-gap: only where --step and --stride are times";
            Err(Error::Usage(problem.to_owned()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(step: Option<&str>, stride: &str, max_gap: Option<u64>) -> Options {
        Options {
            live: true,
            step: step.map(|step| step.parse().unwrap()),
            stride: stride.parse().unwrap(),
            max_gap: max_gap.map(Duration::from_secs),
            rate: None,
            late: None,
            ffmpeg: "ffmpeg".into(),
        }
    }

    #[test]
    fn distances_are_frames_or_times_and_never_both() {
        let frames = pace(&options(None, "8", None)).unwrap();
        assert_eq!(frames, Pace::Frames(v1::FramePace { step: 0, stride: 8 }));
        let Pace::Time(time) = pace(&options(Some("250ms"), "1s", Some(3))).unwrap() else {
            panic!("times");
        };
        assert_eq!(time.step.unwrap().nanos, 250_000_000);
        assert_eq!(time.max_gap.unwrap().seconds, 3);
        for (step, stride, gap) in [
            (None, "1s", None),
            (Some("2"), "1s", None),
            (Some("1s"), "2", None),
            (Some("2"), "2", Some(1)),
        ] {
            assert!(matches!(
                pace(&options(step, stride, gap)),
                Err(Error::Usage(_))
            ));
        }
        assert!("soon".parse::<Distance>().is_err());
        assert_eq!("8".parse::<Distance>().unwrap().to_string(), "8");
    }
}
