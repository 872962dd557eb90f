//! Arrays as NumPy reads them: version 1.0 of the `.npy` format, written row by row.
//!
//! Invariant: the numbers are little-endian and in row-major order, and begin at a multiple of 64 bytes.

use std::io::{self, Seek, SeekFrom, Write};

/// Alignment of the numbers.
const ALIGNMENT: usize = 64;
/// Magic string, version and length of the header.
const PREFIX: usize = 10;
/// Bytes before the numbers: room for any shape of four dimensions.
const RESERVED: usize = 3 * ALIGNMENT;

/// Begins an array whose rows come next.
///
/// # Errors
/// When writing fails.
pub(super) fn begin(out: &mut impl Write) -> io::Result<()> {
    out.write_all(&[0; RESERVED])
}

/// Ends an array: writes before its rows what they are. `descr` is NumPy's name of the number type, for example `<f4`.
///
/// # Errors
/// When writing fails, or the header is longer than the room that is left for it.
pub(super) fn end(out: &mut (impl Write + Seek), descr: &str, shape: &[usize]) -> io::Result<()> {
    let header = header(descr, shape)?;
    out.seek(SeekFrom::Start(0))?;
    out.write_all(&header)?;
    out.flush()
}

fn header(descr: &str, shape: &[usize]) -> io::Result<Vec<u8>> {
    // A tuple of one ends in a comma, and more may.
    let shape: String = shape.iter().map(|size| format!("{size}, ")).collect();
    let shape = shape.trim_end();
    let mut text = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({shape}), }}");
    let spaces = RESERVED.checked_sub(PREFIX + text.len() + 1);
    let spaces = spaces.ok_or_else(|| io::Error::other("the array has too many dimensions"))?;
    text.push_str(&" ".repeat(spaces));
    text.push('\n');
    let len = u16::try_from(text.len()).map_err(io::Error::other)?;
    let mut header = b"\x93NUMPY\x01\x00".to_vec();
    header.extend(len.to_le_bytes());
    header.extend(text.bytes());
    Ok(header)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_is_the_formats_own() {
        for (shape, expected) in [
            (&[][..], "()"),
            (&[5], "(5,)"),
            (&[2, 768], "(2, 768,)"),
            (&[3, 1, 8, 40], "(3, 1, 8, 40,)"),
            (
                &[usize::MAX; 4],
                "(18446744073709551615, 18446744073709551615, 18446744073709551615, 18446744073709551615,)",
            ),
        ] {
            let mut file = io::Cursor::new(Vec::new());
            begin(&mut file).unwrap();
            file.write_all(&[1, 2, 3, 4]).unwrap();
            end(&mut file, "<f4", shape).unwrap();
            let bytes = file.into_inner();
            assert_eq!(&bytes[..8], b"\x93NUMPY\x01\x00");
            let len = usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
            assert_eq!((PREFIX + len) % ALIGNMENT, 0);
            let text = std::str::from_utf8(&bytes[PREFIX..PREFIX + len]).unwrap();
            let dictionary = text.trim_end_matches(' ').trim_end();
            let wanted =
                format!("{{'descr': '<f4', 'fortran_order': False, 'shape': {expected}, }}");
            assert_eq!(dictionary, wanted);
            assert!(text.ends_with('\n'));
            assert_eq!(&bytes[PREFIX + len..], [1, 2, 3, 4]);
        }
    }
}
