//! Bits of a header, most significant first, with the codes that the standards use. Pure.
//!
//! Invariant: a read past the end gives nothing and never panics.

/// Reads bits.
pub(super) struct Bits<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Bits<'a> {
    /// From the first bit on.
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// Reads a bit.
    pub(super) fn flag(&mut self) -> Option<bool> {
        let byte = *self.bytes.get(self.at >> 3)?;
        let bit = byte >> (7 - (self.at & 7)) & 1;
        self.at += 1;
        Some(bit == 1)
    }

    /// A number of at most 32 bits.
    pub(super) fn number(&mut self, bits: u32) -> Option<u32> {
        (0..bits).try_fold(0_u32, |number, _| {
            Some(number << 1 | u32::from(self.flag()?))
        })
    }

    /// Leaves bits out.
    pub(super) fn skip(&mut self, bits: u32) -> Option<()> {
        (0..bits).try_for_each(|_| self.flag().map(drop))
    }

    /// An Exp-Golomb number: ue(v) of H.264 and HEVC, uvlc() of AV1.
    pub(super) fn golomb(&mut self) -> Option<u32> {
        let mut zeros = 0;
        while !self.flag()? {
            zeros += 1;
            if zeros > 31 {
                return None;
            }
        }
        Some(((1_u32 << zeros) - 1).wrapping_add(self.number(zeros)?))
    }

    /// A signed Exp-Golomb number: se(v).
    pub(super) fn signed_golomb(&mut self) -> Option<i64> {
        let code = i64::from(self.golomb()?);
        Some(if code & 1 == 1 {
            (code + 1) / 2
        } else {
            -(code / 2)
        })
    }
}

/// At most `most` bytes of a NAL unit's payload, without the bytes that keep start codes out of it.
pub(super) fn unescaped(payload: &[u8], most: usize) -> Vec<u8> {
    let mut plain = Vec::with_capacity(payload.len().min(most));
    let mut zeros = 0;
    for &byte in payload {
        if plain.len() == most {
            break;
        }
        if zeros >= 2 && byte == 3 {
            zeros = 0;
            continue;
        }
        zeros = if byte == 0 { zeros + 1 } else { 0 };
        plain.push(byte);
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_of_the_standards() {
        // 1 | 010 | 011 | 00100 | 00101 and padding.
        let bytes = [0b1010_0110, 0b0100_0010, 0b1000_0000];
        let mut bits = Bits::new(&bytes);
        let codes: Vec<_> = (0..5).map(|_| bits.golomb()).collect();
        assert_eq!(codes, [0, 1, 2, 3, 4].map(Some));
        let mut bits = Bits::new(&bytes);
        let codes: Vec<_> = (0..5).map(|_| bits.signed_golomb()).collect();
        assert_eq!(codes, [0, 1, -1, 2, -2].map(Some));
    }

    #[test]
    fn the_end_is_no_panic() {
        assert_eq!(Bits::new(&[0; 16]).golomb(), None);
        assert_eq!(Bits::new(&[0, 0, 0, 1]).golomb(), None);
        assert_eq!(Bits::new(&[7]).number(9), None);
        assert_eq!(Bits::new(&[]).flag(), None);
    }

    #[test]
    fn escapes_are_taken_out() {
        assert_eq!(
            unescaped(&[0, 0, 3, 1, 0, 0, 3, 0, 0, 3], 99),
            [0, 0, 1, 0, 0, 0, 0]
        );
        assert_eq!(unescaped(&[1, 2, 3, 4], 2), [1, 2]);
    }
}
