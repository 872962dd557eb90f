//! What the owner of a job is told of videos whose time stamps do not say the order of their frames.

use crate::metadata::VideoRecord;
use crate::spec::FrameOrder;
use crate::video::Warning;

/// Videos that are named; the others are counted.
const NAMED: usize = 5;

/// The videos of a data set whose time stamps are shuffled, repeated or start again: how many there are, and the first by name.
#[derive(Debug, Default)]
pub(super) struct OddStamps {
    count: usize,
    named: Vec<String>,
}

impl OddStamps {
    /// Counts a video if its probe found such time stamps.
    pub(super) fn note(&mut self, record: &VideoRecord) {
        let odd = [Warning::Repeated, Warning::Restarted, Warning::Shuffled].map(Warning::name);
        let warnings = &record.probe.warnings;
        if !warnings.iter().any(|own| odd.contains(&own.as_str())) {
            return;
        }
        self.count += 1;
        if self.named.len() < NAMED {
            let named = format!("{} ({})", record.id, warnings.join(", "));
            self.named.push(named);
        }
    }

    /// The warning for the owner of a job with frames in `order`; `None` when no such video was noted.
    pub(super) fn warning(&self, order: FrameOrder) -> Option<String> {
        if self.count == 0 {
            return None;
        }
        let more = match self.count - self.named.len() {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let consequence = match order {
            FrameOrder::Display => {
                "their frames are taken in the order of players, none is left out"
            }
            FrameOrder::Reference => {
                "the task takes their frames in the order of the reference: sorted by time stamps, which may shuffle them, one frame for each"
            }
        };
        let (count, named) = (self.count, self.named.join(", "));
        Some(format!(
            "{count} videos have time stamps that are shuffled, repeated or start again: {named}{more}; {consequence}"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::VideoId;
    use crate::metadata::VideoProbe;
    use crate::spec::Digest;

    fn record(warnings: &[&str]) -> VideoRecord {
        VideoRecord {
            tenant: "acme".parse().unwrap(),
            id: VideoId::generate(),
            display_name: String::new(),
            size_bytes: 1,
            sha256: Digest([0; 32]),
            probe: VideoProbe {
                container: "avi".into(),
                codec: "h264".into(),
                width: 8,
                height: 8,
                frames: 10,
                duration_micros: 1,
                frame_rate: 25.0,
                rotation_degrees: 0,
                mirrored: false,
                reference_frames: None,
                warnings: warnings.iter().map(|&own| own.to_owned()).collect(),
            },
            create_time: 0,
        }
    }

    fn warning<'a>(
        records: impl Iterator<Item = &'a VideoRecord>,
        order: FrameOrder,
    ) -> Option<String> {
        let mut odd = OddStamps::default();
        records.for_each(|record| odd.note(record));
        odd.warning(order)
    }

    #[test]
    fn videos_with_odd_time_stamps_are_named_and_counted() {
        let fine = [record(&[]), record(&["TRUNCATED"])];
        assert_eq!(warning(fine.iter(), FrameOrder::Display), None);
        let odd: Vec<VideoRecord> = (0..7).map(|_| record(&["SHUFFLED_TIME_STAMPS"])).collect();
        let told = warning(odd.iter().chain(&fine), FrameOrder::Reference).unwrap();
        assert!(
            told.starts_with("7 videos") && told.contains(" and 2 more"),
            "{told}"
        );
        assert!(
            told.contains(&odd[0].id.to_string()) && told.contains("reference"),
            "{told}"
        );
        let told = warning(odd.iter(), FrameOrder::Display).unwrap();
        assert!(told.contains("order of players"), "{told}");
    }
}
