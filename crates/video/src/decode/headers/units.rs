//! NAL units of H.264 and HEVC: how a packet is divided into them, and which parameter sets a decoder knows. Pure.

use super::Doubt;

/// Parameter sets that are remembered: more than any encoder writes, few enough to search.
const MOST_SETS: usize = 64;
/// Bytes of one of them.
const LONGEST_SET: usize = 4096;

/// How units are marked in packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    /// Each unit follows its length, a number of this many bytes.
    Lengths(usize),
    /// By start codes (Annex B).
    StartCodes,
}

/// Divides off the unit that follows its 16-bit length, as boxes of parameter sets have them. Returns the unit and the rest.
pub(super) fn sized_unit(bytes: &[u8]) -> Result<(&[u8], &[u8]), Doubt> {
    let (length, tail) = bytes.split_first_chunk().ok_or(Doubt::Malformed)?;
    let length = usize::from(u16::from_be_bytes(*length));
    tail.split_at_checked(length).ok_or(Doubt::Malformed)
}

/// Calls `each` with every unit of a packet that is not empty.
pub(super) fn each_unit(
    packet: &[u8],
    framing: Framing,
    mut each: impl FnMut(&[u8]) -> Result<(), Doubt>,
) -> Result<(), Doubt> {
    match framing {
        Framing::Lengths(size) => {
            let mut rest = packet;
            while !rest.is_empty() {
                let (length, tail) = rest.split_at_checked(size).ok_or(Doubt::Malformed)?;
                let length =
                    (length.iter()).fold(0_usize, |sum, &byte| sum << 8 | usize::from(byte));
                let (unit, tail) = tail.split_at_checked(length).ok_or(Doubt::Malformed)?;
                rest = tail;
                if !unit.is_empty() {
                    each(unit)?;
                }
            }
            Ok(())
        }
        Framing::StartCodes => {
            // What lies before the first start code belongs to no unit.
            let mut start = after_start_code(packet, 0);
            while let Some(begin) = start {
                start = after_start_code(packet, begin);
                let end = start.map_or(packet.len(), |next| next - 3);
                let unit = without_zeros(&packet[begin..end]);
                if !unit.is_empty() {
                    each(unit)?;
                }
            }
            Ok(())
        }
    }
}

/// Where the first start code at or after `from` ends.
fn after_start_code(bytes: &[u8], from: usize) -> Option<usize> {
    let mut at = from;
    while let Some(&[first, second, third]) = bytes.get(at..at + 3) {
        if third > 1 {
            at += 3;
        } else if (first, second, third) == (0, 0, 1) {
            return Some(at + 3);
        } else {
            at += 1;
        }
    }
    None
}

/// Zeros may follow a unit.
fn without_zeros(unit: &[u8]) -> &[u8] {
    let end = unit.iter().rposition(|&byte| byte != 0);
    &unit[..end.map_or(0, |last| last + 1)]
}

/// The parameter sets that a decoder has before it decodes anything: those of the extradata or, when it has none, of the first packet.
///
/// A set that comes later and is another one changes what packets mean, and a decoder that jumps over it would not know.
#[derive(Debug, Default)]
pub(super) struct ParameterSets {
    known: Vec<Vec<u8>>,
    is_complete: bool,
}

impl ParameterSets {
    /// Takes a set; says whether it is a new one.
    pub(super) fn take(&mut self, set: &[u8]) -> Result<bool, Doubt> {
        let set = without_zeros(set);
        if self.known.iter().any(|known| known == set) {
            return Ok(false);
        }
        if self.is_complete || self.known.len() == MOST_SETS || set.len() > LONGEST_SET {
            return Err(Doubt::Parameters);
        }
        self.known.push(set.to_vec());
        Ok(true)
    }

    /// The extradata ends here: when it had sets, there shall be no others.
    pub(super) fn end_extradata(&mut self) {
        self.is_complete = !self.known.is_empty();
    }

    /// A packet ends here: there shall be no other sets.
    pub(super) fn end_packet(&mut self) {
        self.is_complete = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn units(packet: &[u8], framing: Framing) -> Option<Vec<Vec<u8>>> {
        let mut found = Vec::new();
        each_unit(packet, framing, |unit| {
            found.push(unit.to_vec());
            Ok(())
        })
        .ok()
        .map(|()| found)
    }

    #[test]
    fn lengths_must_add_up() {
        let two = Framing::Lengths(2);
        let packet = [0, 1, 9, 0, 0, 0, 2, 7, 8];
        assert_eq!(units(&packet, two), Some(vec![vec![9], vec![7, 8]]));
        for end in [1, 4, 8] {
            assert_eq!(units(&packet[..end], two), None, "{end}");
        }
        assert_eq!(units(&[0xff; 12], Framing::Lengths(4)), None);
        assert_eq!(units(&[], two), Some(vec![]));
    }

    #[test]
    fn start_codes_of_three_and_four_bytes() {
        let packet = [5, 0, 0, 1, 9, 0, 0, 0, 1, 7, 8, 0, 0, 1, 0, 0, 1, 6];
        assert_eq!(
            units(&packet, Framing::StartCodes),
            Some(vec![vec![9], vec![7, 8], vec![6]])
        );
        assert_eq!(units(&[0, 0, 1], Framing::StartCodes), Some(vec![]));
    }

    #[test]
    fn a_later_set_must_be_a_known_one() {
        let mut sets = ParameterSets::default();
        sets.end_extradata();
        assert_eq!(sets.take(&[1, 2, 0]), Ok(true));
        sets.end_packet();
        assert_eq!(sets.take(&[1, 2]), Ok(false));
        assert_eq!(sets.take(&[1, 3]), Err(Doubt::Parameters));
        let mut sets = ParameterSets::default();
        assert_eq!(sets.take(&[1]), Ok(true));
        sets.end_extradata();
        assert_eq!(sets.take(&[2]), Err(Doubt::Parameters));
    }
}
