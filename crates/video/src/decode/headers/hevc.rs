//! HEVC: one picture of one packet, and where decoding may begin. Pure.
//!
//! Units of other layers (a second view, alpha) are left out, as FFmpeg's decoder leaves them out.

use super::bits::{Bits, unescaped};
use super::units::{Framing, ParameterSets, each_unit, sized_unit};
use super::{Doubt, Facts};

/// Unit types: the last of the slices that exist, broken links, IDR, intra random access points.
const LAST_SLICE: u8 = 21;
const BROKEN_LINKS: std::ops::RangeInclusive<u8> = 16..=18;
const IDR: std::ops::RangeInclusive<u8> = 19..=20;
const RANDOM_ACCESS: std::ops::RangeInclusive<u8> = 16..=21;
const SETS: std::ops::RangeInclusive<u8> = 32..=34;
const PPS: u8 = 34;
const ENDS: std::ops::RangeInclusive<u8> = 36..=37;

/// Walks packets.
#[derive(Debug)]
pub(super) struct Hevc {
    framing: Framing,
    sets: ParameterSets,
    is_first: bool,
    /// A unit said that the sequence ends: what follows is a new one.
    has_ended: bool,
    /// Whether all slices so far lie in the lowest temporal layer.
    is_one_layer: bool,
}

/// Type, layer and temporal id plus one of a unit.
fn head(unit: &[u8]) -> Option<(u8, u8, u8)> {
    let &[first, second] = unit.first_chunk()?;
    Some((first >> 1 & 63, (first & 1) << 5 | second >> 3, second & 7))
}

impl Hevc {
    /// Extradata is an hvcC box, Annex B, or empty.
    pub(super) fn new(extradata: &[u8]) -> Result<Self, Doubt> {
        let is_box =
            extradata.len() > 22 && (extradata[0] != 0 || extradata[1] != 0 || extradata[2] > 1);
        let framing = if is_box {
            Framing::Lengths(usize::from(extradata[21] & 3) + 1)
        } else {
            Framing::StartCodes
        };
        let mut walk = Self {
            framing,
            sets: ParameterSets::default(),
            is_first: true,
            has_ended: false,
            is_one_layer: true,
        };
        if is_box {
            walk.take_box(&extradata[22..])?;
        } else {
            each_unit(extradata, Framing::StartCodes, |unit| walk.take_set(unit))?;
        }
        walk.sets.end_extradata();
        Ok(walk)
    }

    /// Takes the sets of an hvcC box, from its number of arrays on.
    fn take_box(&mut self, arrays: &[u8]) -> Result<(), Doubt> {
        let (&count, mut rest) = arrays.split_first().ok_or(Doubt::Malformed)?;
        for _ in 0..count {
            let (&[_, high, low], tail) = rest.split_first_chunk().ok_or(Doubt::Malformed)?;
            rest = tail;
            for _ in 0..u16::from_be_bytes([high, low]) {
                let (unit, tail) = sized_unit(rest)?;
                rest = tail;
                self.take_set(unit)?;
            }
        }
        Ok(())
    }

    /// Takes a unit if it is a parameter set of the lowest layer.
    fn take_set(&mut self, unit: &[u8]) -> Result<(), Doubt> {
        let Some((kind, 0, _)) = head(unit) else {
            return Ok(());
        };
        if !SETS.contains(&kind) || !self.sets.take(unit)? || kind != PPS {
            return Ok(());
        }
        let plain = unescaped(&unit[2..], 16);
        let mut bits = Bits::new(&plain);
        let mut can_hide = || {
            bits.golomb()?; // pps_pic_parameter_set_id
            bits.golomb()?; // pps_seq_parameter_set_id
            bits.flag()?; // dependent_slice_segments_enabled_flag
            bits.flag() // output_flag_present_flag
        };
        match can_hide() {
            Some(false) => Ok(()),
            // Slices of this set may say that their picture is not shown.
            Some(true) => Err(Doubt::Pictures),
            None => Err(Doubt::Malformed),
        }
    }

    /// Walks one packet.
    pub(super) fn packet(&mut self, packet: &[u8]) -> Result<Facts, Doubt> {
        if self.has_ended {
            return Err(Doubt::Start);
        }
        let is_first = std::mem::take(&mut self.is_first);
        let (mut pictures, mut first_kind) = (0_u32, None);
        each_unit(packet, self.framing, |unit| {
            let Some((kind, layer, temporal)) = head(unit) else {
                return Ok(());
            };
            if layer > 0 {
                return Ok(());
            }
            if kind <= LAST_SLICE {
                let slice = unit.get(2).copied().unwrap_or(0);
                pictures += u32::from(slice & 0x80 != 0);
                first_kind.get_or_insert(kind);
                self.is_one_layer &= temporal == 1;
                // no_output_of_prior_pics_flag: earlier pictures may never be shown.
                if RANDOM_ACCESS.contains(&kind) && slice & 0x40 != 0 && !is_first {
                    return Err(Doubt::Pictures);
                }
            } else if SETS.contains(&kind) {
                self.take_set(unit)?;
            } else if ENDS.contains(&kind) {
                self.has_ended = true;
            }
            Ok(())
        })?;
        self.sets.end_packet();
        let kind = first_kind.filter(|_| pictures == 1);
        let kind = kind.ok_or(Doubt::Pictures)?;
        if BROKEN_LINKS.contains(&kind) || (is_first && !IDR.contains(&kind)) {
            return Err(Doubt::Start);
        }
        Ok(Facts {
            is_shown: true,
            is_entry: RANDOM_ACCESS.contains(&kind),
            is_spare: false,
        })
    }

    /// Whether a picture that its unit types call unreferenced is one: `_N` pictures can be referenced from higher temporal layers.
    pub(super) fn skips_unreferenced(&self) -> bool {
        self.is_one_layer
    }
}
