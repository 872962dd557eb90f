//! Finds where gRPC's messages begin and end in a body: five bytes (a flag and the length), then the message.

use bytes::{Buf, Bytes};

const HEAD: usize = 5;

/// Head of a message: its flag and its length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    /// Bytes of the head as they came.
    pub(super) bytes: [u8; HEAD],
    /// Whether the message is compressed.
    pub(super) is_compressed: bool,
    /// Bytes of the message after its head.
    pub(super) length: u64,
}

/// A place in a body.
#[derive(Debug)]
pub(super) struct Framing {
    head: [u8; HEAD],
    /// Bytes of the head that have come.
    have: usize,
    /// Bytes of the message that are still to come.
    left: usize,
}

impl Framing {
    /// Returns the beginning of a body.
    pub(super) fn new() -> Self {
        Self {
            head: [0; HEAD],
            have: 0,
            left: 0,
        }
    }

    /// Returns the bytes of the message that are still to come; `None` between two messages.
    pub(super) fn left(&self) -> Option<usize> {
        (self.left > 0).then_some(self.left)
    }

    /// Takes note that so many bytes of the message have come.
    pub(super) fn passed(&mut self, bytes: usize) {
        self.left = self.left.saturating_sub(bytes);
    }

    /// Takes the next message's head from the bytes; `None` while it is not whole.
    pub(super) fn begin(&mut self, bytes: &mut Bytes) -> Option<Head> {
        while self.have < HEAD && bytes.has_remaining() {
            if let Some(place) = self.head.get_mut(self.have) {
                *place = bytes.get_u8();
            }
            self.have += 1;
        }
        if self.have < HEAD {
            return None;
        }
        self.have = 0;
        let [flag, length @ ..] = self.head;
        let length = u32::from_be_bytes(length);
        self.left = usize::try_from(length).unwrap_or(usize::MAX);
        Some(Head {
            bytes: self.head,
            is_compressed: flag != 0,
            length: length.into(),
        })
    }

    /// Returns the bytes of a head that is not whole.
    pub(super) fn torn(&mut self) -> Option<Bytes> {
        let have = std::mem::take(&mut self.have);
        let torn = self.head.get(..have).filter(|torn| !torn.is_empty())?;
        Some(Bytes::copy_from_slice(torn))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_found_however_they_are_cut() {
        let bodies: [&[u8]; 3] = [b"hello", b"", b"worlds"];
        let mut all = Vec::new();
        for body in bodies {
            all.push(0);
            all.extend((body.len() as u32).to_be_bytes());
            all.extend(body);
        }
        for piece in 1..all.len() {
            let mut framing = Framing::new();
            let mut found: Vec<Vec<u8>> = Vec::new();
            for bytes in all.chunks(piece) {
                let mut bytes = Bytes::copy_from_slice(bytes);
                while bytes.has_remaining() {
                    match framing.left() {
                        Some(left) => {
                            let part = bytes.split_to(left.min(bytes.len()));
                            framing.passed(part.len());
                            found.last_mut().unwrap().extend(&part);
                        }
                        None => {
                            if framing.begin(&mut bytes).is_some() {
                                found.push(Vec::new());
                            }
                        }
                    }
                }
            }
            assert_eq!(found, bodies, "pieces of {piece}");
            assert_eq!((framing.left(), framing.torn()), (None, None));
        }
    }

    #[test]
    fn a_torn_head_is_kept() {
        let mut framing = Framing::new();
        assert_eq!(framing.begin(&mut Bytes::from_static(&[1, 0])), None);
        assert_eq!(framing.torn().unwrap().as_ref(), [1, 0]);
    }
}
