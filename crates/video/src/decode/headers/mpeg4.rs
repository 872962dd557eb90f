//! MPEG-4 part 2: one coded picture of one packet, without B-pictures. Pure.

use super::units::ParameterSets;
use super::{Doubt, Facts};

/// Codes after 00 00 01: video object layers, sequences, user data (which names the encoder, whose bugs the decoder makes up for), objects, pictures.
const LAYERS: std::ops::RangeInclusive<u8> = 0x20..=0x2f;
const SEQUENCE: u8 = 0xb0;
const USER_DATA: u8 = 0xb2;
const OBJECT: u8 = 0xb5;
const PICTURE: u8 = 0xb6;

/// Most bytes of a picture that is "not coded", which is a bare header.
const BARE_BYTES: usize = 8;

/// Walks packets.
#[derive(Debug)]
pub(super) struct Mpeg4 {
    sets: ParameterSets,
}

/// The sections of a packet: code and what follows it, up to the next code.
fn sections(packet: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    let mut rest = after_start_code(packet);
    std::iter::from_fn(move || {
        let (&code, body) = rest?.split_first()?;
        rest = after_start_code(body);
        let end = rest.map_or(body.len(), |next| body.len() - next.len() - 3);
        Some((code, &body[..end]))
    })
}

fn after_start_code(bytes: &[u8]) -> Option<&[u8]> {
    let at = bytes.windows(3).position(|window| window == [0, 0, 1])?;
    bytes.get(at + 3..)
}

impl Mpeg4 {
    /// Extradata are the sections before the first picture, or empty.
    pub(super) fn new(extradata: &[u8]) -> Result<Self, Doubt> {
        let mut walk = Self {
            sets: ParameterSets::default(),
        };
        for (code, body) in sections(extradata) {
            walk.take_set(code, body)?;
        }
        walk.sets.end_extradata();
        Ok(walk)
    }

    fn take_set(&mut self, code: u8, body: &[u8]) -> Result<(), Doubt> {
        if LAYERS.contains(&code) || [SEQUENCE, USER_DATA, OBJECT].contains(&code) {
            self.sets.take(&[&[code], body].concat())?;
        }
        Ok(())
    }

    /// Walks one packet that the container calls a key packet, or not.
    pub(super) fn packet(&mut self, packet: &[u8], is_key: bool) -> Result<Facts, Doubt> {
        let mut picture = None;
        for (code, body) in sections(packet) {
            self.take_set(code, body)?;
            if code == PICTURE && picture.replace(body).is_some() {
                return Err(Doubt::Pictures);
            }
        }
        self.sets.end_packet();
        let picture = picture.filter(|picture| picture.len() > BARE_BYTES);
        let is_intra = match picture.ok_or(Doubt::Pictures)?[0] >> 6 {
            0 => true,
            2 => return Err(Doubt::Pictures),
            _ => false,
        };
        if is_key && !is_intra {
            return Err(Doubt::Start);
        }
        Ok(Facts {
            is_shown: true,
            is_entry: is_intra,
            is_spare: false,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(kind: u8) -> Vec<u8> {
        let mut packet = vec![0, 0, 1, PICTURE, kind << 6];
        packet.extend([0x55; 12]);
        packet
    }

    #[test]
    fn pictures_by_their_coding_type() {
        let mut walk = Mpeg4::new(&[]).unwrap();
        assert!(
            walk.packet(&picture(0), true)
                .is_ok_and(|facts| facts.is_entry)
        );
        assert!(
            walk.packet(&picture(1), false)
                .is_ok_and(|facts| !facts.is_entry)
        );
        assert_eq!(walk.packet(&picture(1), true), Err(Doubt::Start));
        assert_eq!(walk.packet(&picture(2), false), Err(Doubt::Pictures));
        let packed = [picture(1), picture(2)].concat();
        assert_eq!(walk.packet(&packed, false), Err(Doubt::Pictures));
        assert_eq!(walk.packet(&picture(1)[..9], false), Err(Doubt::Pictures));
        assert_eq!(walk.packet(&[], false), Err(Doubt::Pictures));
    }

    #[test]
    fn a_later_encoder_name_is_a_doubt() {
        let with = |name: &[u8]| [&[0, 0, 1, USER_DATA][..], name, &picture(0)].concat();
        let mut walk = Mpeg4::new(&[]).unwrap();
        assert!(walk.packet(&with(b"XviD0050"), true).is_ok());
        assert!(walk.packet(&with(b"XviD0050"), true).is_ok());
        assert_eq!(
            walk.packet(&with(b"XviD0046"), true),
            Err(Doubt::Parameters)
        );
    }
}
