//! Damages video files in the sizes, counts, names and order of the parts that their containers consist of. Pure.
//!
//! Invariant: the same bytes and seed give the same damage.

mod parts;

use frameshift::rng::Stream;

use self::parts::{Part, Size, parts};

/// Values that readers often handle wrongly.
const NUMBERS: [u64; 14] = [
    0,
    1,
    2,
    7,
    8,
    0x7f,
    0x80,
    0xff,
    0x7fff,
    0xffff,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    u64::MAX,
];

/// Bytes from a part's start within which its fields are likely to be.
const FIELDS: u64 = 96;

/// Returns a damaged copy. `donor` is the source of parts that do not belong into the file.
pub(crate) fn mutate(original: &[u8], donor: &[u8], random: &mut Stream) -> Vec<u8> {
    let mut bytes = original.to_vec();
    let rounds = match random.below(4) {
        0 => 1,
        1 => 2,
        2 => 1 + random.below(6),
        _ => 1 + random.below(40),
    };
    for _ in 0..rounds {
        if bytes.is_empty() {
            break;
        }
        // Every change of length moves the parts.
        let found = parts(&bytes);
        if found.is_empty() || random.below(5) == 0 {
            flat(&mut bytes, random);
        } else {
            let part = found[random.below(found.len() as u64) as usize].clone();
            structured(&mut bytes, (&part, &found), donor, random);
        }
    }
    if random.below(12) == 0 {
        bytes.truncate(random.below(bytes.len() as u64 + 1) as usize);
    }
    // A file that mutations made ever longer would only test the upload limit.
    bytes.truncate(2 * original.len() + (64 << 10));
    bytes
}

/// Damages bytes without regard to structure.
fn flat(bytes: &mut Vec<u8>, random: &mut Stream) {
    let length = bytes.len() as u64;
    // Headers and indices are at the start and the end.
    let at = match random.below(4) {
        0 => random.below(length.min(4096)),
        1 => length - 1 - random.below(length.min(4096)),
        _ => random.below(length),
    } as usize;
    let run = (1 + random.below(64) as usize).min(bytes.len() - at);
    match random.below(6) {
        0 => bytes[at] ^= 1 << random.below(8),
        1 => bytes[at] = random.bits() as u8,
        2 => bytes[at..at + run].fill(0),
        3 => bytes[at..at + run].fill(0xff),
        4 => (bytes[at..at + run].iter_mut()).for_each(|byte| *byte = random.bits() as u8),
        _ => drop(bytes.drain(at..at + run)),
    }
}

/// Damages a part, or the sizes and counts of it in its parents.
fn structured(
    bytes: &mut Vec<u8>,
    (part, all): (&Part, &[Part]),
    donor: &[u8],
    random: &mut Stream,
) {
    match random.below(9) {
        0 => set_size(bytes, part, number(random)),
        1 => {
            let shift = random.below(64) as i64 - 32;
            let size = part.size.value(bytes).wrapping_add_signed(shift);
            set_size(bytes, part, size);
        }
        // Overwrites a field with a number that readers often handle wrongly, in either byte order.
        2 | 3 => {
            let body = part.end - part.body;
            let width = [1, 2, 4, 8][random.below(4) as usize];
            if body >= width {
                let reach = ((body - width) as u64 + 1).min(FIELDS);
                let at = part.body + random.below(reach) as usize;
                put(
                    &mut bytes[at..at + width],
                    number(random),
                    random.below(2) == 0,
                );
            }
        }
        // Overwrites the name, or what takes its place.
        4 => {
            let at = part.start + random.below((part.body - part.start) as u64) as usize;
            bytes[at] = random.bits() as u8;
        }
        5 => replace(bytes, (part, all), &[], random),
        6 => {
            let twice = bytes[part.start..part.end].repeat(2);
            replace(bytes, (part, all), &twice, random);
        }
        7 => {
            let other = &all[random.below(all.len() as u64) as usize];
            let copy = bytes[other.start..other.end].to_vec();
            replace(bytes, (part, all), &copy, random);
        }
        _ => {
            let foreign = parts(donor);
            if !foreign.is_empty() {
                let other = &foreign[random.below(foreign.len() as u64) as usize];
                let copy = donor[other.start..other.end].to_vec();
                replace(bytes, (part, all), &copy, random);
            }
        }
    }
}

/// Replaces a part by other bytes; half of the time its parents' sizes are corrected, so that the reader gets as far as the damage.
fn replace(bytes: &mut Vec<u8>, (part, all): (&Part, &[Part]), with: &[u8], random: &mut Stream) {
    const LONGEST: usize = 1 << 20;
    if with.len() > LONGEST {
        return;
    }
    let change = with.len() as i64 - (part.end - part.start) as i64;
    if random.below(2) == 0 {
        let parents = all
            .iter()
            .filter(|own| own.body <= part.start && part.end <= own.end && *own != part);
        for parent in parents {
            let size = parent.size.value(bytes).wrapping_add_signed(change);
            set_size(bytes, parent, size);
        }
    }
    bytes.splice(part.start..part.end, with.iter().copied());
}

fn number(random: &mut Stream) -> u64 {
    match random.below(3) {
        0 => random.bits(),
        1 => random.below(4096),
        _ => NUMBERS[random.below(NUMBERS.len() as u64) as usize],
    }
}

fn set_size(bytes: &mut [u8], part: &Part, value: u64) {
    match part.size {
        Size::None => {}
        Size::Plain { at, width, is_big } => put(&mut bytes[at..at + width], value, is_big),
        Size::Ebml { at, width } => {
            put(&mut bytes[at..at + width], value, true);
            // The first byte encodes the number's width.
            let marker = 0x80_u8 >> (width - 1);
            bytes[at] = bytes[at] & (marker - 1) | marker;
        }
    }
}

/// Writes the lower bytes of a number.
fn put(field: &mut [u8], value: u64, is_big: bool) {
    let width = field.len();
    if is_big {
        field.copy_from_slice(&value.to_be_bytes()[8 - width..]);
    } else {
        field.copy_from_slice(&value.to_le_bytes()[..width]);
    }
}

impl Size {
    fn value(self, bytes: &[u8]) -> u64 {
        match self {
            Self::None => 0,
            Self::Plain { at, width, is_big } => {
                let field = bytes[at..at + width].iter();
                let join = |value: u64, byte: &u8| value << 8 | u64::from(*byte);
                if is_big {
                    field.fold(0, join)
                } else {
                    field.rev().fold(0, join)
                }
            }
            Self::Ebml { at, width } => {
                let field = bytes[at..at + width].iter();
                let value = field.fold(0_u64, |value, byte| value << 8 | u64::from(*byte));
                value & ((1 << (7 * width)) - 1)
            }
        }
    }
}

#[test]
fn parts_of_every_container_are_found_and_damaged_the_same_way_again() {
    let samples: [(&[u8], usize); 5] = [
        (include_bytes!("../../assets/containers/mov.mp4"), 20),
        (include_bytes!("../../assets/containers/matroska.mkv"), 20),
        (include_bytes!("../../assets/containers/avi.avi"), 10),
        (include_bytes!("../../assets/containers/mpegts.ts"), 42),
        (include_bytes!("../../assets/containers/flv.flv"), 6),
    ];
    for (bytes, least) in samples {
        let found = parts(bytes);
        assert!(found.len() >= least, "{} parts of {least}", found.len());
        for part in &found {
            assert!(part.start < part.body && part.body <= part.end && part.end <= bytes.len());
        }
        let damaged = |seed| mutate(bytes, samples[0].0, &mut Stream::new(seed, "damage"));
        let differing = (0..200).filter(|&seed| damaged(seed) != bytes).count();
        assert!(differing > 190, "{differing} of 200");
        assert_eq!(damaged(7), damaged(7));
    }
}
