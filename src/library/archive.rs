//! The examples of a snapshot as bytes: what its blob holds.
//!
//! Invariant: equal snapshots have equal bytes; reading and writing need memory for one page and for the labels that the table holds, whatever the bytes say.
//!
//! After the heading there is a record for each example, in the order of the videos' ids: how many bytes the id begins with that the one before began with
//! (one byte), the rest of the id's 16 bytes, the split (one byte), and the labels. These are a number: 0 before labels that are written out, else the place,
//! from 1, of labels that were written out before. A number is seven bits a byte, the lowest first, and a set eighth bit says that another byte follows. What
//! is written out is its length in bytes, and UTF-8; it gets the next place while the table has room. A byte of 255 and the number of examples end it.

use std::collections::HashMap;
use std::io::{self, Read};

use uuid::Uuid;

use crate::ids::VideoId;
use crate::metadata::ExampleRecord;
use crate::spec::{ExampleLabels, Split};

/// How the bytes begin.
const HEADING: &[u8] = b"frameshift snapshot 1\n";
/// Bytes of labels that the table holds at most.
const TABLE: usize = 4 << 20;
/// Bytes that the labels of one example have at most.
const LABELS: u64 = 64 << 10;
/// What the byte before an id is at the end.
const END: u8 = 255;
/// Bytes of a video's id.
const ID: usize = 16;

/// Reason why bytes are no snapshot.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The bytes end too early, or cannot be read.
    #[error("cannot read a snapshot's blob")]
    Read(#[from] io::Error),
    /// The bytes say something that no snapshot does.
    #[error("a snapshot's blob is damaged: {0}")]
    Damaged(&'static str),
}

/// Writes the examples of one snapshot.
#[derive(Debug)]
pub(super) struct Encoder {
    before: [u8; ID],
    count: u64,
    places: HashMap<String, u64>,
    bytes: usize,
}

impl Encoder {
    /// Begins with the heading.
    pub(super) fn new(out: &mut Vec<u8>) -> Self {
        out.extend_from_slice(HEADING);
        Self {
            before: [0; ID],
            count: 0,
            places: HashMap::new(),
            bytes: 0,
        }
    }

    /// Appends an example, whose video's id is above those before.
    pub(super) fn add(&mut self, example: &ExampleRecord, out: &mut Vec<u8>) {
        let id = *example.video.uuid().as_bytes();
        let equal = id.iter().zip(self.before).take_while(|(a, b)| **a == *b);
        let shared = match self.count {
            0 => 0,
            _ => equal.count().min(ID - 1),
        };
        out.push(shared as u8);
        out.extend_from_slice(&id[shared..]);
        out.push(match example.split {
            Split::Train => 0,
            Split::Validation => 1,
            Split::Test => 2,
        });
        let labels = example.labels.text();
        match self.places.get(labels) {
            Some(place) => number(*place, out),
            None => {
                number(0, out);
                number(labels.len() as u64, out);
                out.extend_from_slice(labels.as_bytes());
                if self.bytes + labels.len() <= TABLE {
                    self.bytes += labels.len() + 1;
                    let place = self.places.len() as u64 + 1;
                    self.places.insert(labels.to_owned(), place);
                }
            }
        }
        (self.before, self.count) = (id, self.count + 1);
    }

    /// Appends the end.
    pub(super) fn finish(self, out: &mut Vec<u8>) {
        out.push(END);
        number(self.count, out);
    }
}

fn number(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Reads the examples of one snapshot.
#[derive(Debug)]
pub(super) struct Decoder<R> {
    source: R,
    before: [u8; ID],
    count: u64,
    table: Vec<String>,
    bytes: usize,
    has_ended: bool,
}

impl<R: Read> Decoder<R> {
    /// Begins with the heading.
    pub(super) fn new(mut source: R) -> Result<Self, Error> {
        let mut heading = [0; HEADING.len()];
        source.read_exact(&mut heading)?;
        if heading != HEADING {
            return Err(Error::Damaged("it has another heading"));
        }
        Ok(Self {
            source,
            before: [0; ID],
            count: 0,
            table: Vec::new(),
            bytes: 0,
            has_ended: false,
        })
    }

    /// The next examples, at most so many; fewer are the last ones.
    pub(super) fn page(&mut self, most: usize) -> Result<Vec<ExampleRecord>, Error> {
        let mut page = Vec::new();
        while page.len() < most {
            match self.next()? {
                Some(example) => page.push(example),
                None => break,
            }
        }
        Ok(page)
    }

    fn next(&mut self) -> Result<Option<ExampleRecord>, Error> {
        if self.has_ended {
            return Ok(None);
        }
        let shared = match self.byte()? {
            END => {
                if self.number()? != self.count {
                    return Err(Error::Damaged("it has another number of examples"));
                }
                self.has_ended = true;
                return Ok(None);
            }
            shared => usize::from(shared),
        };
        let mut id = self.before;
        let rest = id.get_mut(shared..).filter(|rest| !rest.is_empty());
        let rest = rest.ok_or(Error::Damaged("an id has no bytes of its own"))?;
        self.source.read_exact(rest)?;
        if self.count > 0 && id <= self.before {
            return Err(Error::Damaged("its ids are not in order"));
        }
        let split = match self.byte()? {
            0 => Split::Train,
            1 => Split::Validation,
            2 => Split::Test,
            _ => return Err(Error::Damaged("it names no split")),
        };
        let labels = ExampleLabels::read(self.labels()?);
        (self.before, self.count) = (id, self.count + 1);
        Ok(Some(ExampleRecord {
            video: VideoId::from(Uuid::from_bytes(id)),
            labels,
            split,
        }))
    }

    fn labels(&mut self) -> Result<String, Error> {
        let place = self.number()?;
        if place > 0 {
            let known = usize::try_from(place - 1).ok();
            let known = known.and_then(|place| self.table.get(place));
            return known.cloned().ok_or(Error::Damaged("it names no labels"));
        }
        let length = self.number()?;
        if length > LABELS {
            return Err(Error::Damaged("labels are too long"));
        }
        let mut bytes = vec![0; length as usize];
        self.source.read_exact(&mut bytes)?;
        let labels = String::from_utf8(bytes);
        let labels = labels.map_err(|_| Error::Damaged("labels are no UTF-8"))?;
        if self.bytes + labels.len() <= TABLE {
            self.bytes += labels.len() + 1;
            self.table.push(labels.clone());
        }
        Ok(labels)
    }

    fn byte(&mut self) -> Result<u8, Error> {
        let mut byte = [0];
        self.source.read_exact(&mut byte)?;
        Ok(byte[0])
    }

    fn number(&mut self) -> Result<u64, Error> {
        let mut value = 0;
        for shift in (0..63).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(Error::Damaged("a number is too large"))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn encoded(examples: &[ExampleRecord]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut encoder = Encoder::new(&mut out);
        for example in examples {
            encoder.add(example, &mut out);
        }
        encoder.finish(&mut out);
        out
    }

    fn decoded(bytes: &[u8], page: usize) -> Result<Vec<ExampleRecord>, Error> {
        let mut decoder = Decoder::new(bytes)?;
        let mut all = Vec::new();
        loop {
            let some = decoder.page(page)?;
            let is_last = some.len() < page;
            all.extend(some);
            if is_last {
                return Ok(all);
            }
        }
    }

    fn example(id: u128, labels: &str, split: u8) -> ExampleRecord {
        ExampleRecord {
            video: VideoId::from(Uuid::from_u128(id)),
            labels: labels.into(),
            split: [Split::Train, Split::Validation, Split::Test][usize::from(split)],
        }
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(
            examples in proptest::collection::btree_map(any::<u128>(), ("[a-e]{0,3}", 0u8..3), 0..200),
            page in 1usize..50,
        ) {
            let examples: Vec<_> = examples
                .iter()
                .map(|(id, (labels, split))| example(*id, labels, *split))
                .collect();
            let bytes = encoded(&examples);
            prop_assert_eq!(decoded(&bytes, page).unwrap(), examples);
            // Nothing that was cut is read as a whole.
            for end in 0..bytes.len() {
                prop_assert!(decoded(&bytes[..end], page).is_err());
            }
        }

        #[test]
        fn other_bytes_are_refused_or_read_in_bounds(mut bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut whole = HEADING.to_vec();
            whole.append(&mut bytes);
            let _ = decoded(&whole, 10);
        }
    }

    #[test]
    fn an_example_takes_about_as_many_bytes_as_its_id() {
        let examples: Vec<_> = (0..10_000u128)
            .map(|number| {
                let id = (0x0197_b3c0_0000_7000 + number) << 64 | (number * 0x9e37_79b9_7f4a_7c15);
                example(id, &format!("label {}", number % 400), (number % 3) as u8)
            })
            .collect();
        let bytes = encoded(&examples).len();
        assert!(bytes < 16 * examples.len(), "{bytes}");
        assert_eq!(encoded(&examples), encoded(&examples));
    }

    #[test]
    fn labels_beyond_the_table_are_written_out_each_time() {
        let long = "x".repeat(60_000);
        let examples: Vec<_> = (0..200u128)
            .map(|number| example(number + 1, &format!("{}{long}", number % 100), 0))
            .collect();
        let bytes = encoded(&examples);
        // The table has room for 69 of the 100; each of the others is written twice.
        assert!(bytes.len() > 130 * long.len() && bytes.len() < 132 * long.len());
        assert_eq!(decoded(&bytes, 7).unwrap(), examples);
    }
}
