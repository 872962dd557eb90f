//! H.264: one frame of one packet, and where decoding may begin. Pure.

use super::bits::{Bits, unescaped};
use super::units::{Framing, ParameterSets, each_unit, sized_unit};
use super::{Doubt, Facts};

const SLICE: u8 = 1;
const PARTITION: u8 = 2;
const IDR: u8 = 5;
const SEI: u8 = 6;
const SPS: u8 = 7;
const PPS: u8 = 8;
/// SEI payload type.
const RECOVERY_POINT: usize = 6;

/// Bytes of a slice header that are looked at.
const SLICE_BYTES: usize = 24;
/// Bytes of a sequence parameter set that are looked at: all of them, with scaling lists.
const SPS_BYTES: usize = 1024;

/// Walks packets.
#[derive(Debug)]
pub(super) struct H264 {
    framing: Framing,
    sets: ParameterSets,
    /// Facts of the sequence parameter sets, which must all agree.
    sequence: Option<Sequence>,
    is_first: bool,
}

/// What a sequence parameter set says of slice headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Sequence {
    frame_number_bits: u32,
    has_colour_planes: bool,
    /// No picture is a field.
    is_frames_only: bool,
}

impl H264 {
    /// Extradata is an avcC box, Annex B, or empty.
    pub(super) fn new(extradata: &[u8]) -> Result<Self, Doubt> {
        let is_box = extradata.first() == Some(&1);
        let framing = match extradata.get(4) {
            Some(size) if is_box => Framing::Lengths(usize::from(size & 3) + 1),
            _ => Framing::StartCodes,
        };
        let mut walk = Self {
            framing,
            sets: ParameterSets::default(),
            sequence: None,
            is_first: true,
        };
        if is_box {
            walk.take_box(extradata)?;
        } else {
            each_unit(extradata, Framing::StartCodes, |unit| walk.take_set(unit))?;
        }
        walk.sets.end_extradata();
        Ok(walk)
    }

    /// Takes the sets of an avcC box.
    fn take_box(&mut self, extradata: &[u8]) -> Result<(), Doubt> {
        let mut rest = extradata.get(5..).ok_or(Doubt::Malformed)?;
        for mask in [0x1f, 0xff] {
            let (&count, tail) = rest.split_first().ok_or(Doubt::Malformed)?;
            rest = tail;
            for _ in 0..count & mask {
                let (unit, tail) = sized_unit(rest)?;
                rest = tail;
                self.take_set(unit)?;
            }
        }
        Ok(())
    }

    /// Takes a unit if it is a parameter set.
    fn take_set(&mut self, unit: &[u8]) -> Result<(), Doubt> {
        let Some((&head, payload)) = unit.split_first() else {
            return Ok(());
        };
        if !matches!(head & 31, SPS | PPS) || !self.sets.take(unit)? || head & 31 == PPS {
            return Ok(());
        }
        let sequence = Sequence::read(&unescaped(payload, SPS_BYTES)).ok_or(Doubt::Malformed)?;
        if self.sequence.is_some_and(|own| own != sequence) {
            return Err(Doubt::Parameters);
        }
        self.sequence = Some(sequence);
        Ok(())
    }

    /// Walks one packet.
    pub(super) fn packet(&mut self, packet: &[u8]) -> Result<Facts, Doubt> {
        let (mut pictures, mut is_idr, mut is_recovered) = (0_u32, false, false);
        each_unit(packet, self.framing, |unit| {
            let (head, payload) = (unit[0], &unit[1..]);
            match head & 31 {
                kind @ (SLICE | PARTITION | IDR) => {
                    is_idr |= kind == IDR;
                    // The first macroblock's number is Exp-Golomb: a set bit is 0.
                    if payload.first().is_some_and(|byte| byte & 0x80 != 0) {
                        pictures += 1;
                        self.check_frame(payload)?;
                    }
                }
                SEI => is_recovered |= recovers_at_once(payload),
                SPS | PPS => self.take_set(unit)?,
                _ => {}
            }
            Ok(())
        })?;
        self.sets.end_packet();
        if pictures != 1 {
            return Err(Doubt::Pictures);
        }
        if std::mem::take(&mut self.is_first) && !is_idr {
            return Err(Doubt::Start);
        }
        Ok(Facts {
            is_shown: true,
            is_entry: is_idr || is_recovered,
            is_spare: false,
        })
    }

    /// Refuses a field: two of them are one picture.
    fn check_frame(&self, payload: &[u8]) -> Result<(), Doubt> {
        let sequence = self.sequence.ok_or(Doubt::Parameters)?;
        if sequence.is_frames_only {
            return Ok(());
        }
        let header = unescaped(payload, SLICE_BYTES);
        let is_field = || {
            let mut bits = Bits::new(&header);
            bits.golomb()?; // first_mb_in_slice
            bits.golomb()?; // slice_type
            bits.golomb()?; // pic_parameter_set_id
            if sequence.has_colour_planes {
                bits.skip(2)?;
            }
            bits.skip(sequence.frame_number_bits)?;
            bits.flag() // field_pic_flag
        };
        match is_field() {
            Some(false) => Ok(()),
            Some(true) => Err(Doubt::Pictures),
            None => Err(Doubt::Malformed),
        }
    }
}

/// Whether an SEI unit says that decoding may begin here and is exact from this picture on, in output order.
fn recovers_at_once(payload: &[u8]) -> bool {
    let mut rest = payload;
    let number = |rest: &mut &[u8]| {
        let mut sum = 0_usize;
        loop {
            let (&byte, tail) = rest.split_first()?;
            *rest = tail;
            sum += usize::from(byte);
            if byte != 255 {
                return Some(sum);
            }
        }
    };
    while rest.len() > 2 {
        let (Some(kind), Some(size)) = (number(&mut rest), number(&mut rest)) else {
            return false;
        };
        if kind == RECOVERY_POINT {
            let plain = unescaped(rest, 8);
            let mut bits = Bits::new(&plain);
            // recovery_frame_cnt, exact_match_flag, broken_link_flag
            let said = (bits.golomb(), bits.flag(), bits.flag());
            return said == (Some(0), Some(true), Some(false));
        }
        let Some(tail) = rest.get(size..) else {
            return false;
        };
        rest = tail;
    }
    false
}

impl Sequence {
    /// From a set without its first byte.
    fn read(plain: &[u8]) -> Option<Self> {
        let mut bits = Bits::new(plain);
        let profile = bits.number(8)?;
        bits.skip(16)?; // constraints, level
        bits.golomb()?; // seq_parameter_set_id
        let mut has_colour_planes = false;
        let with_chroma = [
            100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135, 144,
        ];
        if with_chroma.contains(&profile) {
            let chroma = bits.golomb()?;
            if chroma == 3 {
                has_colour_planes = bits.flag()?;
            }
            bits.golomb()?; // bit_depth_luma_minus8
            bits.golomb()?; // bit_depth_chroma_minus8
            bits.flag()?; // qpprime_y_zero_transform_bypass_flag
            if bits.flag()? {
                scaling_lists(&mut bits, if chroma == 3 { 12 } else { 8 })?;
            }
        }
        let frame_number_bits = bits.golomb()?.checked_add(4).filter(|&bits| bits <= 16)?;
        match bits.golomb()? {
            0 => drop(bits.golomb()?),
            1 => {
                bits.flag()?;
                bits.signed_golomb()?;
                bits.signed_golomb()?;
                let cycle = bits.golomb()?.min(256);
                (0..cycle).try_for_each(|_| bits.signed_golomb().map(drop))?;
            }
            _ => {}
        }
        bits.golomb()?; // max_num_ref_frames
        bits.flag()?; // gaps_in_frame_num_value_allowed_flag
        bits.golomb()?; // pic_width_in_mbs_minus1
        bits.golomb()?; // pic_height_in_map_units_minus1
        Some(Self {
            frame_number_bits,
            has_colour_planes,
            is_frames_only: bits.flag()?,
        })
    }
}

fn scaling_lists(bits: &mut Bits<'_>, count: usize) -> Option<()> {
    for list in 0..count {
        if !bits.flag()? {
            continue;
        }
        let (mut last, mut next) = (8_i64, 8_i64);
        for _ in 0..if list < 6 { 16 } else { 64 } {
            if next != 0 {
                next = (last + bits.signed_golomb()?).rem_euclid(256);
            }
            if next != 0 {
                last = next;
            }
        }
    }
    Some(())
}
