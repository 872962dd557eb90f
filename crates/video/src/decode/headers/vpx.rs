//! VP8 and VP9: which frames of a packet are shown, and where decoding may begin. Pure.

use super::{Doubt, Facts};

/// A VP8 packet is one frame; a hidden one is not in the index.
pub(super) fn vp8(packet: &[u8]) -> Result<Facts, Doubt> {
    let tag = *packet.first().ok_or(Doubt::Empty)?;
    Ok(Facts {
        is_shown: tag >> 4 & 1 == 1,
        is_entry: tag & 1 == 0,
        is_spare: false,
    })
}

/// A VP9 frame: whether it is shown, and whether it is a key frame.
fn vp9_frame(frame: &[u8]) -> Option<(bool, bool)> {
    let byte = *frame.first()?;
    let marker = byte >> 6;
    let profile = (byte >> 5 & 1) | (byte >> 4 & 1) << 1;
    // Profile 3 has a reserved bit before the rest.
    let rest = if profile == 3 { byte << 5 } else { byte << 4 };
    let (shows_existing, is_inter, is_shown) =
        (rest & 0x80 != 0, rest & 0x40 != 0, rest & 0x20 != 0);
    if marker != 2 {
        return None;
    }
    Some((shows_existing || is_shown, !shows_existing && !is_inter))
}

/// A VP9 packet is one frame, or a superframe with an index at its end.
pub(super) fn vp9(packet: &[u8]) -> Result<Facts, Doubt> {
    let frames = superframe(packet).ok_or(Doubt::Malformed)?;
    let (mut shown, mut is_entry) = (0, None);
    for frame in frames {
        let (is_shown, is_key) = vp9_frame(frame).ok_or(Doubt::Malformed)?;
        shown += u32::from(is_shown);
        is_entry.get_or_insert(is_key);
    }
    if shown != 1 {
        return Err(Doubt::Pictures);
    }
    Ok(Facts {
        is_shown: true,
        is_entry: is_entry == Some(true),
        is_spare: false,
    })
}

/// The frames of a packet.
fn superframe(packet: &[u8]) -> Option<Vec<&[u8]>> {
    let last = *packet.last()?;
    let (count, width) = (usize::from(last & 7) + 1, usize::from(last >> 3 & 3) + 1);
    let length = 2 + count * width;
    let begin = packet.len().checked_sub(length);
    let Some(begin) = begin.filter(|&begin| last & 0xe0 == 0xc0 && packet[begin] == last) else {
        return Some(vec![packet]);
    };
    let (mut rest, index) = packet.split_at(begin);
    let mut frames = Vec::with_capacity(count);
    for size in index[1..length - 1].chunks_exact(width) {
        let size = (size.iter().rev()).fold(0_usize, |sum, &byte| sum << 8 | usize::from(byte));
        let (frame, tail) = rest.split_at_checked(size)?;
        rest = tail;
        if size > 0 {
            frames.push(frame);
        }
    }
    Some(frames)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: u8 = 0b1000_0010;
    const SHOWN: u8 = 0b1000_0110;
    const HIDDEN: u8 = 0b1000_0100;
    const EXISTING: u8 = 0b1000_1000;

    #[test]
    fn vp9_frames() {
        assert_eq!(vp9(&[KEY, 1]).map(|facts| facts.is_entry), Ok(true));
        assert_eq!(vp9(&[SHOWN, 1]).map(|facts| facts.is_entry), Ok(false));
        assert_eq!(vp9(&[EXISTING, 1]).map(|facts| facts.is_entry), Ok(false));
        assert_eq!(vp9(&[HIDDEN, 1]), Err(Doubt::Pictures));
        assert_eq!(vp9(&[0x40, 1]), Err(Doubt::Malformed));
        assert_eq!(vp9(&[]), Err(Doubt::Malformed));
        // Profile 3: marker 10, profile 11, reserved 0, not existing, key, shown.
        assert_eq!(vp9(&[0b1011_0001]).map(|facts| facts.is_entry), Ok(true));
    }

    #[test]
    fn superframes_show_one_of_their_frames() {
        let index = [0xc9, 2, 0, 1, 0, 0xc9];
        let both = |first, second| [&[first, 7, second][..], &index].concat();
        assert!(vp9(&both(HIDDEN, SHOWN)).is_ok());
        assert!(vp9(&both(KEY, HIDDEN)).is_ok_and(|facts| facts.is_entry));
        assert_eq!(vp9(&both(SHOWN, SHOWN)), Err(Doubt::Pictures));
        let too_long = [&[HIDDEN][..], &[0xc9, 9, 0, 1, 0, 0xc9]].concat();
        assert_eq!(vp9(&too_long), Err(Doubt::Malformed));
    }

    #[test]
    fn vp8_frames() {
        let facts = |tag| vp8(&[tag, 0, 0]).map(|facts| (facts.is_shown, facts.is_entry));
        assert_eq!(facts(0x10), Ok((true, true)));
        assert_eq!(facts(0x11), Ok((true, false)));
        assert_eq!(facts(0x01), Ok((false, false)));
        assert_eq!(vp8(&[]), Err(Doubt::Empty));
    }
}
