//! JPEGs that come one after the other, cut apart by their markers. Pure.
//!
//! Invariant: a picture inside a picture, such as a thumbnail, cuts nothing; no more than one picture's bytes are held.

/// The place in a picture up to which it was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Before its begin.
    Before,
    /// At a marker.
    Marker(usize),
    /// Inside of a scan.
    Scan(usize),
}

/// Bytes that have come and are no whole picture yet.
#[derive(Debug)]
pub(super) struct Pictures {
    bytes: Vec<u8>,
    place: Place,
    most: usize,
}

/// A picture that is larger than one may be.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooLarge;

impl Pictures {
    /// Starts without bytes; the size of a picture is limited.
    pub(super) fn new(most: usize) -> Self {
        Self {
            bytes: Vec::new(),
            place: Place::Before,
            most,
        }
    }

    /// Takes bytes that came. Returns the pictures that are whole now.
    ///
    /// # Errors
    /// [`TooLarge`] for a picture that has no end in time.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Result<Vec<Vec<u8>>, TooLarge> {
        self.bytes.extend_from_slice(bytes);
        let mut whole = Vec::new();
        while let Some(end) = self.end() {
            let rest = self.bytes.split_off(end);
            whole.push(std::mem::replace(&mut self.bytes, rest));
            self.place = Place::Before;
        }
        match self.bytes.len() > self.most || whole.iter().any(|own| own.len() > self.most) {
            true => Err(TooLarge),
            false => Ok(whole),
        }
    }

    /// Whether a picture has begun and not ended.
    pub(super) fn is_torn(&self) -> bool {
        self.place != Place::Before
    }

    /// The end of the picture that the bytes begin with; `None` when more has to come.
    fn end(&mut self) -> Option<usize> {
        loop {
            match self.place {
                Place::Before => {
                    let begin = self.bytes.windows(2).position(|pair| pair == [0xff, 0xd8]);
                    // What lies between pictures is of no use; the last byte may be half a marker.
                    let skipped = begin.unwrap_or(self.bytes.len().saturating_sub(1));
                    self.bytes.drain(..skipped);
                    begin?;
                    self.place = Place::Marker(2);
                }
                Place::Marker(at) => {
                    let pair = self.bytes.get(at..at + 2)?;
                    self.place = match (pair[0], pair[1]) {
                        (0xff, 0xff) => Place::Marker(at + 1),
                        (0xff, 0xd9) => return Some(at + 2),
                        (0xff, 0x01 | 0xd0..=0xd8) => Place::Marker(at + 2),
                        (0xff, kind) => {
                            let length = self.bytes.get(at + 2..at + 4)?;
                            let length = usize::from(u16::from_be_bytes([length[0], length[1]]));
                            let next = at + 2 + length.max(2);
                            match kind {
                                0xda => Place::Scan(next),
                                _ => Place::Marker(next),
                            }
                        }
                        // Not a marker: the picture is damaged, and another begins somewhere behind.
                        _ => {
                            self.bytes.drain(..2);
                            Place::Before
                        }
                    };
                }
                Place::Scan(from) => {
                    let scan = self.bytes.get(from..).unwrap_or_default();
                    let is_marker = |pair: &[u8]| {
                        pair[0] == 0xff && !matches!(pair[1], 0x00 | 0xd0..=0xd7 | 0xff)
                    };
                    match scan.windows(2).position(is_marker) {
                        Some(after) => self.place = Place::Marker(from + after),
                        None => {
                            // The last byte may be half a marker.
                            let read = self.bytes.len().saturating_sub(1).max(from);
                            self.place = Place::Scan(read);
                            return None;
                        }
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A picture with a thumbnail in its application data, stuffed bytes and restarts in its scan.
    fn picture(seed: u8) -> Vec<u8> {
        let mut bytes = vec![0xff, 0xd8];
        let thumbnail = [0xff, 0xd8, 0xff, 0xd9, seed];
        bytes.extend([0xff, 0xe1, 0, 2 + thumbnail.len() as u8]);
        bytes.extend(thumbnail);
        bytes.extend([0xff, 0xff, 0xc4, 0, 3, seed]);
        bytes.extend([0xff, 0xda, 0, 4, 1, 2]);
        bytes.extend([seed, 0xff, 0x00, 7, 0xff, 0xd3, 9, 0xff, 0xff]);
        bytes.extend([0xff, 0xda, 0, 2, 5, 0xff, 0xd9]);
        bytes
    }

    #[test]
    fn pictures_are_cut_apart_however_they_come() {
        let expected: Vec<Vec<u8>> = (0..3).map(picture).collect();
        let mut all = b"garbage".to_vec();
        for picture in &expected {
            all.extend(picture);
            all.extend([0, 0xff, 3]);
        }
        for piece in 1..all.len() {
            let mut pictures = Pictures::new(1000);
            let mut found = Vec::new();
            for bytes in all.chunks(piece) {
                found.extend(pictures.push(bytes).unwrap());
            }
            assert!(found == expected, "pieces of {piece}");
            assert!(!pictures.is_torn());
        }
    }

    #[test]
    fn a_damaged_picture_costs_itself_only() {
        let mut bytes = vec![0xff, 0xd8, 1, 2, 3];
        bytes.extend(picture(4));
        let mut pictures = Pictures::new(1000);
        assert_eq!(pictures.push(&bytes).unwrap(), [picture(4)]);
        pictures.push(&picture(5)[..9]).unwrap();
        assert!(pictures.is_torn());
    }

    #[test]
    fn a_picture_without_an_end_is_not_held_for_ever() {
        let mut pictures = Pictures::new(100);
        let begin = picture(1);
        pictures.push(&begin[..begin.len() - 2]).unwrap();
        assert_eq!(pictures.push(&[0; 100]), Err(TooLarge));
    }
}
