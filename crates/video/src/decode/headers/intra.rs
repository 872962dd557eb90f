//! Codecs whose packets are pictures of their own: Motion JPEG, ProRes, FFV1, DV. Pure.

use super::{Doubt, Facts};

fn shown(is_entry: bool) -> Facts {
    Facts {
        is_shown: true,
        is_entry,
        is_spare: false,
    }
}

/// A ProRes packet carries all that it needs.
pub(super) fn prores(packet: &[u8]) -> Result<Facts, Doubt> {
    if packet.is_empty() {
        return Err(Doubt::Empty);
    }
    Ok(shown(true))
}

/// A DV picture is ten or twelve sequences of 12,000 bytes, times the number of channels; the first block is a header.
pub(super) fn dv(packet: &[u8]) -> Result<Facts, Doubt> {
    const SEQUENCE: usize = 12_000;
    /// Section type 0, the first sequence.
    const HEADER: u8 = 0x1f;
    let sequences = packet.len() / SEQUENCE;
    let is_whole = packet.len().is_multiple_of(SEQUENCE) && (10..=48).contains(&sequences);
    if !is_whole || packet.first() != Some(&HEADER) {
        return Err(Doubt::Malformed);
    }
    Ok(shown(true))
}

/// An FFV1 packet of a later picture goes on with the statistics of the earlier ones; its first, range-coded bit says so.
pub(super) fn ffv1(packet: &[u8]) -> Result<Facts, Doubt> {
    // With the first range of 0xff00 and a state of one half, 1 is what lies above this.
    const KEY: u16 = 0x7f80;
    let first = packet.first_chunk().ok_or(Doubt::Malformed)?;
    Ok(shown(u16::from_be_bytes(*first) >= KEY))
}

/// Motion JPEG pictures may rely on tables that an earlier one brought.
#[derive(Debug, Default)]
pub(super) struct Mjpeg {
    has_codes: bool,
    has_restarts: bool,
}

impl Mjpeg {
    /// Walks one packet up to its first scan.
    pub(super) fn packet(&mut self, packet: &[u8]) -> Result<Facts, Doubt> {
        const QUANTISATION: u8 = 0xdb;
        const CODES: u8 = 0xc4;
        const RESTARTS: u8 = 0xdd;
        const SCAN: u8 = 0xda;
        let mut rest = packet.strip_prefix(&[0xff, 0xd8]).ok_or(Doubt::Malformed)?;
        let (mut has_quantisation, mut has_codes, mut has_restarts) = (false, false, false);
        loop {
            let (&[mark, marker], tail) = rest.split_first_chunk().ok_or(Doubt::Malformed)?;
            if mark != 0xff {
                return Err(Doubt::Malformed);
            }
            match marker {
                // Filling bytes.
                0xff => {
                    rest = &rest[1..];
                    continue;
                }
                SCAN => break,
                QUANTISATION => has_quantisation = true,
                CODES => has_codes = true,
                RESTARTS => has_restarts = true,
                _ => {}
            }
            let length = tail.first_chunk().ok_or(Doubt::Malformed)?;
            let length = usize::from(u16::from_be_bytes(*length));
            rest = tail.get(length.max(2)..).ok_or(Doubt::Malformed)?;
        }
        self.has_codes |= has_codes;
        self.has_restarts |= has_restarts;
        Ok(shown(
            has_quantisation
                && (has_codes || !self.has_codes)
                && (has_restarts || !self.has_restarts),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn jpeg(markers: &[u8]) -> Vec<u8> {
        let mut packet = vec![0xff, 0xd8];
        for &marker in markers {
            packet.extend([0xff, marker, 0, 4, 1, 1]);
        }
        packet.extend([0xff, 0xda, 0, 4, 9, 9]);
        packet
    }

    #[test]
    fn a_picture_that_lacks_tables_is_no_entry() {
        let mut walk = Mjpeg::default();
        let mut is_entry = |markers: &[u8]| walk.packet(&jpeg(markers)).map(|own| own.is_entry);
        assert_eq!(is_entry(&[0xdb]), Ok(true));
        assert_eq!(is_entry(&[0xe0, 0xdb, 0xc4]), Ok(true));
        assert_eq!(is_entry(&[0xdb]), Ok(false));
        assert_eq!(is_entry(&[0xc4]), Ok(false));
    }

    #[test]
    fn a_broken_picture_is_a_doubt() {
        let mut walk = Mjpeg::default();
        let whole = jpeg(&[0xdb]);
        for end in 0..9 {
            assert_eq!(walk.packet(&whole[..end]), Err(Doubt::Malformed), "{end}");
        }
        assert_eq!(ffv1(&[1]), Err(Doubt::Malformed));
    }

    #[test]
    fn key_frames_of_ffv1() {
        assert_eq!(ffv1(&[0xc0, 0]).map(|own| own.is_entry), Ok(true));
        assert_eq!(ffv1(&[0x40, 0]).map(|own| own.is_entry), Ok(false));
    }
}
