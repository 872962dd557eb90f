//! Parts of a container: boxes, elements, chunks, packets, tags.
//!
//! Invariant: a part lies within the bytes, whatever its fields claim.

/// A part of a container: its name and size, then its body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) start: usize,
    pub(super) body: usize,
    pub(super) end: usize,
    pub(super) size: Size,
}

/// Position and encoding of a part's size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Size {
    /// The size is not written.
    None,
    /// The size is a number of `width` bytes.
    Plain {
        at: usize,
        width: usize,
        is_big: bool,
    },
    /// The size is a variable-width number of Matroska.
    Ebml { at: usize, width: usize },
}

/// Most parts that are listed. A file of many thousand frames has many thousand parts; the first ones are enough.
const MOST: usize = 4000;

/// Returns the parts of a file, parents before children; none when the format is not known.
pub(super) fn parts(bytes: &[u8]) -> Vec<Part> {
    let mut found = Vec::new();
    let whole = (0, bytes.len());
    if bytes.get(4..8) == Some(b"ftyp") {
        boxes(bytes, whole, &mut found);
    } else if bytes.starts_with(&[0x1a, 0x45, 0xdf, 0xa3]) {
        elements(bytes, whole, &mut found);
    } else if bytes.starts_with(b"RIFF") {
        chunks(bytes, whole, &mut found);
    } else if bytes.first() == Some(&0x47) {
        packets(bytes, &mut found);
    } else if bytes.starts_with(b"FLV") {
        tags(bytes, &mut found);
    }
    found
}

fn big(bytes: &[u8], at: usize, width: usize) -> Option<u64> {
    let field = bytes.get(at..at + width)?;
    Some((field.iter()).fold(0, |value, &byte| value << 8 | u64::from(byte)))
}

/// Lists the parts of an MP4 file: size, name, body. The named boxes contain boxes.
fn boxes(bytes: &[u8], (mut at, end): (usize, usize), found: &mut Vec<Part>) {
    const PARENTS: &[&[u8]] = &[
        b"moov", b"trak", b"edts", b"mdia", b"minf", b"dinf", b"stbl", b"mvex", b"moof", b"traf",
        b"udta", b"meta", b"stsd", b"avc1", b"hev1", b"mp4v",
    ];
    while at + 8 <= end && found.len() < MOST {
        let Some(size) = big(bytes, at, 4) else {
            return;
        };
        let own_end = match size {
            0..8 => end,
            size => (at as u64 + size).min(end as u64) as usize,
        };
        let name = &bytes[at + 4..at + 8];
        found.push(Part {
            start: at,
            body: at + 8,
            end: own_end,
            size: Size::Plain {
                at,
                width: 4,
                is_big: true,
            },
        });
        if PARENTS.contains(&name) {
            // Bytes of fields before the first child.
            let fields = match name {
                b"stsd" => 8,
                b"meta" => 4,
                b"avc1" | b"hev1" | b"mp4v" => 78,
                _ => 0,
            };
            boxes(bytes, ((at + 8 + fields).min(own_end), own_end), found);
        }
        at = own_end;
    }
}

/// Returns the width and the value of a variable-width number of Matroska at this position.
fn variable(bytes: &[u8], at: usize) -> Option<(usize, u64)> {
    let first = *bytes.get(at)?;
    let width = first.leading_zeros() as usize + 1;
    if width > 8 {
        return None;
    }
    let value = big(bytes, at, width)?;
    Some((width, value & ((1 << (7 * width)) - 1)))
}

/// Lists the parts of a Matroska file: a name and a size of variable width, then the body. The named elements contain elements.
fn elements(bytes: &[u8], (mut at, end): (usize, usize), found: &mut Vec<Part>) {
    const PARENTS: &[u64] = &[
        0x1a45_dfa3, // EBML
        0x1853_8067, // Segment
        0x1549_a966, // Info
        0x1654_ae6b, // Tracks
        0xae,        // TrackEntry
        0xe0,        // Video
        0x55b0,      // Colour
        0x6d80,      // ContentEncodings
        0x1f43_b675, // Cluster
        0xa0,        // BlockGroup
        0x1c53_bb6b, // Cues
        0xbb,        // CuePoint
        0xb7,        // CueTrackPositions
        0x114d_9b74, // SeekHead
        0x4dbb,      // Seek
        0x1254_c367, // Tags
        0x7373,      // Tag
    ];
    while at < end && found.len() < MOST {
        let Some((name_width, _)) = variable(bytes, at) else {
            return;
        };
        let Some((width, size)) = variable(bytes, at + name_width) else {
            return;
        };
        let body = at + name_width + width;
        if body > end {
            return;
        }
        let is_unknown = size == (1 << (7 * width)) - 1;
        let own_end = if is_unknown {
            end
        } else {
            (body as u64).saturating_add(size).min(end as u64) as usize
        };
        found.push(Part {
            start: at,
            body,
            end: own_end,
            size: Size::Ebml {
                at: at + name_width,
                width,
            },
        });
        let name = big(bytes, at, name_width).unwrap_or(0);
        if PARENTS.contains(&name) {
            elements(bytes, (body, own_end), found);
        }
        at = own_end;
    }
}

/// Lists the parts of an AVI file: name, size in little-endian, body, padded to an even length. Lists have a name of their own.
fn chunks(bytes: &[u8], (mut at, end): (usize, usize), found: &mut Vec<Part>) {
    while at + 8 <= end && found.len() < MOST {
        let field: [u8; 4] = [bytes[at + 4], bytes[at + 5], bytes[at + 6], bytes[at + 7]];
        let own_end =
            (at as u64 + 8 + u64::from(u32::from_le_bytes(field))).min(end as u64) as usize;
        found.push(Part {
            start: at,
            body: at + 8,
            end: own_end,
            size: Size::Plain {
                at: at + 4,
                width: 4,
                is_big: false,
            },
        });
        if [&b"RIFF"[..], b"LIST"].contains(&&bytes[at..at + 4]) {
            chunks(bytes, ((at + 12).min(own_end), own_end), found);
        }
        at = own_end + own_end % 2;
    }
}

/// Lists the parts of an MPEG-TS file: packets of 188 bytes.
fn packets(bytes: &[u8], found: &mut Vec<Part>) {
    const PACKET: usize = 188;
    for at in (0..bytes.len() / PACKET).take(MOST).map(|i| i * PACKET) {
        found.push(Part {
            start: at,
            body: at + 4,
            end: at + PACKET,
            // Length of an adaptation field or of a table, which have no other position in common.
            size: Size::Plain {
                at: at + 4,
                width: 1,
                is_big: true,
            },
        });
    }
}

/// Lists the parts of an FLV file: a header, then tags of type, size, time, stream and body, each followed by its length.
fn tags(bytes: &[u8], found: &mut Vec<Part>) {
    let mut at = 13;
    found.push(Part {
        start: 0,
        body: 9.min(bytes.len()),
        end: at.min(bytes.len()),
        size: Size::None,
    });
    while at + 11 <= bytes.len() && found.len() < MOST {
        let Some(size) = big(bytes, at + 1, 3) else {
            return;
        };
        let end = (at + 11 + size as usize + 4).min(bytes.len());
        found.push(Part {
            start: at,
            body: at + 11,
            end,
            size: Size::Plain {
                at: at + 1,
                width: 3,
                is_big: true,
            },
        });
        at = end;
    }
}
