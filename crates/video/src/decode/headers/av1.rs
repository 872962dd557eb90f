//! AV1: one shown frame of one temporal unit, and whether another frame refers to it. Pure.
//!
//! Scalable streams and those with a decoder model are decoded as a whole.

use super::bits::Bits;
use super::{Doubt, Facts};

const SEQUENCE_HEADER: u8 = 1;
const FRAME_HEADER: u8 = 3;
const FRAME: u8 = 6;

const KEY_FRAME: u32 = 0;
const INTRA_ONLY_FRAME: u32 = 2;
const SWITCH_FRAME: u32 = 3;

/// "The frame says": `seq_force_screen_content_tools`, `seq_force_integer_mv`.
const SELECT: u32 = 2;

/// Walks packets.
#[derive(Debug)]
pub(super) struct Av1 {
    /// The sequence header's bytes and what they say.
    sequence: Option<(Vec<u8>, Sequence)>,
}

/// What a sequence header says of frame headers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Sequence {
    is_reduced: bool,
    id_bits: u32,
    order_hint_bits: u32,
    screen_content: u32,
    integer_mv: u32,
}

/// What a frame header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Frame {
    is_shown: bool,
    is_key: bool,
    /// No reference buffer takes it.
    is_unreferenced: bool,
}

impl Av1 {
    /// What the container says is not looked at, as the decoder does not: a sequence header comes with every key frame.
    pub(super) fn new() -> Self {
        Self { sequence: None }
    }

    /// Walks one packet.
    pub(super) fn packet(&mut self, packet: &[u8]) -> Result<Facts, Doubt> {
        let (frames, has_sequence) = self.units(packet)?;
        let mut shown = frames.iter().filter(|frame| frame.is_shown);
        if shown.next().is_none() || shown.next().is_some() {
            return Err(Doubt::Pictures);
        }
        Ok(Facts {
            is_shown: true,
            is_entry: has_sequence && frames[0].is_key && frames[0].is_shown,
            is_spare: frames.len() == 1 && frames[0].is_unreferenced,
        })
    }

    /// The frames of a packet, and whether it has a sequence header.
    fn units(&mut self, packet: &[u8]) -> Result<(Vec<Frame>, bool), Doubt> {
        let (mut frames, mut has_sequence) = (Vec::new(), false);
        let mut rest = packet;
        while let Some((&head, tail)) = rest.split_first() {
            let (kind, has_extension, has_size) = (head >> 3 & 15, head & 4 != 0, head & 2 != 0);
            let mut tail = tail
                .get(usize::from(has_extension)..)
                .ok_or(Doubt::Malformed)?;
            let size = if has_size {
                leb128(&mut tail).ok_or(Doubt::Malformed)?
            } else {
                tail.len()
            };
            let (payload, tail) = tail.split_at_checked(size).ok_or(Doubt::Malformed)?;
            rest = tail;
            match kind {
                SEQUENCE_HEADER => {
                    has_sequence = true;
                    self.take_sequence(payload)?;
                }
                FRAME_HEADER | FRAME => {
                    let (_, sequence) = self.sequence.as_ref().ok_or(Doubt::Parameters)?;
                    frames.push(Frame::read(payload, sequence).ok_or(Doubt::Malformed)?);
                }
                _ => {}
            }
        }
        Ok((frames, has_sequence))
    }

    fn take_sequence(&mut self, payload: &[u8]) -> Result<(), Doubt> {
        if let Some((known, _)) = &self.sequence {
            return if known == payload {
                Ok(())
            } else {
                Err(Doubt::Parameters)
            };
        }
        let sequence = Sequence::read(payload)?;
        self.sequence = Some((payload.to_vec(), sequence));
        Ok(())
    }
}

fn leb128(bytes: &mut &[u8]) -> Option<usize> {
    let mut value = 0_u64;
    for i in 0..8 {
        let (&byte, tail) = bytes.split_first()?;
        *bytes = tail;
        value |= u64::from(byte & 127) << (7 * i);
        if byte & 128 == 0 {
            return usize::try_from(value).ok();
        }
    }
    None
}

impl Sequence {
    fn read(payload: &[u8]) -> Result<Self, Doubt> {
        let mut bits = Bits::new(payload);
        let mut sequence = Self::default();
        let is_plain = sequence.begin(&mut bits).ok_or(Doubt::Malformed)?;
        if !is_plain {
            return Err(Doubt::Layers);
        }
        sequence.end(&mut bits).ok_or(Doubt::Malformed)?;
        Ok(sequence)
    }

    /// Up to the operating points; `false` for a stream that is scalable or has a decoder model.
    fn begin(&mut self, bits: &mut Bits<'_>) -> Option<bool> {
        bits.skip(4)?; // seq_profile, still_picture
        self.is_reduced = bits.flag()?;
        if self.is_reduced {
            bits.skip(5)?; // seq_level_idx
            return Some(true);
        }
        if bits.flag()? {
            bits.skip(64)?; // num_units_in_display_tick, time_scale
            if bits.flag()? {
                bits.golomb()?; // num_ticks_per_picture_minus_1
            }
            if bits.flag()? {
                return Some(false);
            }
        }
        let has_display_delay = bits.flag()?;
        for _ in 0..=bits.number(5)? {
            if bits.number(12)? != 0 {
                return Some(false);
            }
            if bits.number(5)? > 7 {
                bits.flag()?; // seq_tier
            }
            if has_display_delay && bits.flag()? {
                bits.skip(4)?;
            }
        }
        Some(true)
    }

    /// From the frame size on.
    fn end(&mut self, bits: &mut Bits<'_>) -> Option<()> {
        let (width_bits, height_bits) = (bits.number(4)? + 1, bits.number(4)? + 1);
        bits.skip(width_bits + height_bits)?;
        if !self.is_reduced && bits.flag()? {
            let delta_bits = bits.number(4)? + 2;
            self.id_bits = bits.number(3)? + delta_bits + 1;
        }
        bits.skip(3)?; // 128 superblock, filter intra, intra edge filter
        (self.screen_content, self.integer_mv) = (SELECT, SELECT);
        if self.is_reduced {
            return Some(());
        }
        bits.skip(4)?; // interintra, masked, warped motion, dual filter
        let has_order_hints = bits.flag()?;
        if has_order_hints {
            bits.skip(2)?; // jnt_comp, ref_frame_mvs
        }
        if !bits.flag()? {
            self.screen_content = bits.number(1)?;
        }
        if self.screen_content > 0 && !bits.flag()? {
            self.integer_mv = bits.number(1)?;
        }
        if has_order_hints {
            self.order_hint_bits = bits.number(3)? + 1;
        }
        Some(())
    }
}

impl Frame {
    fn read(payload: &[u8], sequence: &Sequence) -> Option<Self> {
        let mut bits = Bits::new(payload);
        if sequence.is_reduced {
            return Some(Self {
                is_shown: true,
                is_key: true,
                is_unreferenced: false,
            });
        }
        if bits.flag()? {
            // show_existing_frame: cheap, and one of a key frame refreshes every buffer.
            return Some(Self {
                is_shown: true,
                is_key: false,
                is_unreferenced: false,
            });
        }
        let kind = bits.number(2)?;
        let is_shown = bits.flag()?;
        let is_key = kind == KEY_FRAME;
        let mut frame = Self {
            is_shown,
            is_key,
            is_unreferenced: false,
        };
        if !is_shown {
            return Some(frame);
        }
        let is_resilient = kind == SWITCH_FRAME || is_key || bits.flag()?;
        bits.flag()?; // disable_cdf_update
        let screen_content = if sequence.screen_content == SELECT {
            bits.number(1)?
        } else {
            sequence.screen_content
        };
        if screen_content == 1 && sequence.integer_mv == SELECT {
            bits.flag()?; // force_integer_mv
        }
        bits.skip(sequence.id_bits)?;
        if kind != SWITCH_FRAME {
            bits.flag()?; // frame_size_override_flag
        }
        bits.skip(sequence.order_hint_bits)?;
        if kind != INTRA_ONLY_FRAME && !is_resilient {
            bits.skip(3)?; // primary_ref_frame
        }
        let takes_all = kind == SWITCH_FRAME || is_key;
        frame.is_unreferenced = !takes_all && bits.number(8)? == 0;
        Some(frame)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// SVT-AV1's.
    const SEQUENCE: [u8; 11] = [0, 0, 0, 4, 0x3c, 0xff, 0xbc, 0x02, 0xf8, 0x02, 0x40];

    #[test]
    fn leb128_is_bounded() {
        assert_eq!(leb128(&mut &[0x80, 0x01][..]), Some(128));
        assert_eq!(leb128(&mut &[0xff; 9][..]), None);
        assert_eq!(leb128(&mut &[][..]), None);
    }

    #[test]
    fn another_sequence_header_is_a_doubt() {
        let unit = |last: u8| {
            let mut unit = vec![0x0a, 11];
            unit.extend(SEQUENCE);
            unit[12] = last;
            unit
        };
        let mut walk = Av1::new();
        walk.units(&unit(0x40)).unwrap();
        assert!(walk.units(&unit(0x40)).is_ok());
        assert_eq!(walk.units(&unit(0x41)).unwrap_err(), Doubt::Parameters);
    }

    #[test]
    fn a_frame_before_the_sequence_header_is_a_doubt() {
        let mut walk = Av1::new();
        assert_eq!(walk.packet(&[0x32, 1, 0x10]), Err(Doubt::Parameters));
        assert_eq!(walk.packet(&[0x12, 0]), Err(Doubt::Pictures));
        assert_eq!(walk.packet(&[0x12, 5]), Err(Doubt::Malformed));
    }
}
