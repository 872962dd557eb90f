//! Tells whether a container promises more than there is.
//!
//! Invariant: a healthy file is never called truncated: edit lists leave packets out, AVI stores repeated pictures as nothing, and a container may be as long
//! as its sound.

use super::{Index, Opened, seconds};
use crate::answer::Container;
use crate::ffmpeg::io::Demuxer;

/// Whether an open container, whose packets have been read, promises more than came.
pub(super) fn is_truncated(opened: &Opened<'_>, index: &Index) -> bool {
    let came = index.entries.len();
    match opened.container {
        Container::Mov => came < opened.demuxer.indexed_packets(opened.stream),
        Container::Avi => is_short(index, opened.facts.promised_frames),
        Container::Matroska => ends_within_segment(&opened.demuxer).unwrap_or_else(|| {
            // Without a size only the duration is left.
            is_alone(opened) && ends_early(opened, index)
        }),
        Container::Flv => !ends_with_tag(&opened.demuxer) && ends_early(opened, index),
        Container::Asf => is_alone(opened) && ends_early(opened, index),
        // Their duration is that of what is there.
        Container::MpegTs | Container::Ogg => false,
    }
}

/// Whether no other stream can be the one that is as long as the container.
fn is_alone(opened: &Opened<'_>) -> bool {
    opened.demuxer.streams() == 1
}

/// Whether an AVI file has fewer pictures than its header says, repeated ones included: the times of decoding count them.
fn is_short(index: &Index, promised: i64) -> bool {
    let mut times = index.entries.iter().filter_map(super::Entry::decoding_time);
    let first = times.next().unwrap_or(0);
    let last = times.max().unwrap_or(first);
    let came = i64::try_from(index.entries.len()).unwrap_or(i64::MAX);
    let covered = last.saturating_sub(first).saturating_add(1).max(came);
    // Recorders miscount by one.
    let missing = promised.saturating_sub(covered);
    missing > 1 && missing.saturating_mul(100) > promised
}

/// Whether the last picture is shown well before the promised end.
fn ends_early(opened: &Opened<'_>, index: &Index) -> bool {
    let facts = &opened.facts;
    let promised = facts.promised_duration.or(facts.container_duration);
    let last = index.pts.last().copied().unwrap_or(0);
    promised.is_some_and(|promised| {
        let (promised, last) = (
            seconds(promised, facts.time_base),
            seconds(last, facts.time_base),
        );
        promised > last * 1.1 && promised > last + 0.5
    })
}

/// Whether a Matroska file ends before its segment does; `None` when the segment does not say how long it is.
fn ends_within_segment(demuxer: &Demuxer<'_>) -> Option<bool> {
    const HEADER: [u8; 4] = [0x1a, 0x45, 0xdf, 0xa3];
    const SEGMENT: [u8; 4] = [0x18, 0x53, 0x80, 0x67];
    let mut at = 0;
    let mut sized = |id: [u8; 4]| {
        let mut head = [0; 12];
        demuxer.bytes_at(at, &mut head)?;
        let rest = head.strip_prefix(&id)?;
        let (size, width) = element_size(rest)?;
        at = at.checked_add(4 + width)?.checked_add(size)?;
        Some(at)
    };
    sized(HEADER)?;
    let end = sized(SEGMENT)?;
    Some(end > demuxer.length())
}

/// An element's size and how many bytes the size takes; `None` when it is unknown.
fn element_size(bytes: &[u8]) -> Option<(u64, u64)> {
    let width = bytes.first()?.leading_zeros() + 1;
    let (own, _) = bytes.split_at_checked(width as usize)?;
    let raw = own
        .iter()
        .fold(0_u64, |value, &byte| value << 8 | u64::from(byte));
    let mask = (1_u64 << (7 * width)) - 1;
    let size = raw & mask;
    (width <= 8 && size != mask).then_some((size, width.into()))
}

/// Whether a Flash video ends with a whole tag and the tag's size.
fn ends_with_tag(demuxer: &Demuxer<'_>) -> bool {
    const HEAD: u64 = 11;
    let check = || {
        let end = demuxer.length().checked_sub(4)?;
        let mut size = [0; 4];
        demuxer.bytes_at(end, &mut size)?;
        let tag = u64::from(u32::from_be_bytes(size));
        let mut head = [0; 4];
        demuxer.bytes_at(end.checked_sub(tag)?, &mut head)?;
        let [_, high, middle, low] = head;
        let body = u64::from(u32::from_be_bytes([0, high, middle, low]));
        Some(tag == body + HEAD)
    };
    check().unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_of_elements_read_as_they_are_written() {
        assert_eq!(element_size(&[0x9f]), Some((31, 1)));
        assert_eq!(element_size(&[0x40, 0x10, 7]), Some((16, 2)));
        let eight = [1, 0, 0, 0, 0, 0, 1, 2];
        assert_eq!(element_size(&eight), Some((258, 8)));
        // Unknown, of none, and cut off.
        assert_eq!(element_size(&[0xff]), None);
        assert_eq!(element_size(&[0, 1, 2, 3, 4, 5, 6, 7]), None);
        assert_eq!(element_size(&[0x40]), None);
    }
}
