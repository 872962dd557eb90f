//! Mutations of zip archives: fields of the directory are replaced, or the pickle inside is mutated and the archive is packed again.

use super::{Dice, pickles};

/// A field of a record: its offset and its width.
const RECORD: [(usize, usize); 11] = [
    (0, 4),
    (8, 2),
    (10, 2),
    (16, 4),
    (20, 4),
    (24, 4),
    (28, 2),
    (30, 2),
    (32, 2),
    (42, 4),
    (46, 1),
];
const END: [(usize, usize); 5] = [(0, 4), (10, 2), (12, 4), (16, 4), (20, 2)];
const LOCAL: [(usize, usize); 4] = [(0, 4), (8, 2), (26, 2), (28, 2)];

/// Replaces one field of a directory record, of the end record or of a local header.
pub(super) fn change(mut file: Vec<u8>, dice: &mut Dice) -> Vec<u8> {
    let (sign, fields): (&[u8], &[(usize, usize)]) = match dice.below(4) {
        0 => (b"PK\x05\x06", &END),
        1 => (b"PK\x03\x04", &LOCAL),
        _ => (b"PK\x01\x02", &RECORD),
    };
    let places = find(&file, sign);
    if places.is_empty() {
        return pickles::change(&file, dice);
    }
    let (offset, width) = *dice.pick(fields);
    let at = *dice.pick(&places) + offset;
    let bytes = dice.number().to_le_bytes();
    if let Some(field) = file.get_mut(at..at + width) {
        field.copy_from_slice(&bytes[..width]);
    }
    file
}

/// Mutates the first entry called data.pkl; sizes and offsets are corrected.
pub(super) fn change_pickle(file: &[u8], dice: &mut Dice) -> Vec<u8> {
    let Some((mut entries, at)) = entries(file) else {
        return pickles::change(file, dice);
    };
    entries[at].1 = pickles::change(&entries[at].1, dice);
    if dice.below(10) == 0 {
        let other = dice.below(entries.len());
        let swapped = entries[other].1.clone();
        let target = dice.below(entries.len());
        entries[target].1 = swapped;
    }
    pack(&entries)
}

type Entries = Vec<(Vec<u8>, Vec<u8>)>;

/// Returns the names and contents of a whole archive, and which entry is the pickle.
fn entries(file: &[u8]) -> Option<(Entries, usize)> {
    let number = |at: usize, width: usize| {
        let mut bytes = [0; 8];
        bytes[..width].copy_from_slice(file.get(at..at + width)?);
        Some(u64::from_le_bytes(bytes) as usize)
    };
    let mut out = Entries::new();
    for at in find(file, b"PK\x01\x02") {
        let (size, name, local) = (
            number(at + 24, 4)?,
            number(at + 28, 2)?,
            number(at + 42, 4)?,
        );
        let begin = local.checked_add(30)? + number(local + 26, 2)? + number(local + 28, 2)?;
        let content = file.get(begin..begin.checked_add(size)?)?.to_vec();
        out.push((file.get(at + 46..at + 46 + name)?.to_vec(), content));
    }
    let pickle = out
        .iter()
        .position(|(name, _)| name.ends_with(b"/data.pkl"))?;
    Some((out, pickle))
}

fn pack(entries: &Entries) -> Vec<u8> {
    let (mut file, mut directory) = (Vec::new(), Vec::new());
    for (name, content) in entries {
        let local = file.len() as u32;
        let mut common = vec![20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        common.extend((content.len() as u32).to_le_bytes());
        common.extend((content.len() as u32).to_le_bytes());
        common.extend((name.len() as u16).to_le_bytes());
        common.extend([0; 2]);
        file.extend(b"PK\x03\x04");
        file.extend(&common);
        file.extend(name);
        file.extend(content);
        directory.extend(b"PK\x01\x02\x14\0");
        directory.extend(&common);
        directory.extend([0; 10]);
        directory.extend(local.to_le_bytes());
        directory.extend(name);
    }
    let begin = file.len() as u32;
    file.extend(&directory);
    file.extend(b"PK\x05\x06\0\0\0\0");
    file.extend((entries.len() as u16).to_le_bytes());
    file.extend((entries.len() as u16).to_le_bytes());
    file.extend((directory.len() as u32).to_le_bytes());
    file.extend(begin.to_le_bytes());
    file.extend([0; 2]);
    file
}

fn find(file: &[u8], sign: &[u8]) -> Vec<usize> {
    let last = file.len().saturating_sub(sign.len());
    (0..last)
        .filter(|&at| file[at..].starts_with(sign))
        .collect()
}
