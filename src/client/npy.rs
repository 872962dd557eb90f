//! Arrays as NumPy reads them: version 1.0 of the `.npy` format.
//!
//! Invariant: the numbers are little-endian and in row-major order, and begin at a multiple of 64 bytes.

use std::io::{self, Write};

/// Alignment of the numbers.
const ALIGNMENT: usize = 64;
/// Magic string, version and length of the header.
const PREFIX: usize = 10;

/// Writes an array; `descr` is NumPy's name of the number type, for example `<f4`.
///
/// # Errors
/// When writing fails, or the header would be longer than the format allows.
pub(super) fn write(
    out: &mut (impl Write + ?Sized),
    descr: &str,
    shape: &[usize],
    rows: impl IntoIterator<Item = impl AsRef<[u8]>>,
) -> io::Result<()> {
    out.write_all(&header(descr, shape)?)?;
    for row in rows {
        out.write_all(row.as_ref())?;
    }
    Ok(())
}

fn header(descr: &str, shape: &[usize]) -> io::Result<Vec<u8>> {
    // A tuple of one ends in a comma, and more may.
    let shape: String = shape.iter().map(|size| format!("{size}, ")).collect();
    let shape = shape.trim_end();
    let mut text = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({shape}), }}");
    let end = (PREFIX + text.len() + 1).next_multiple_of(ALIGNMENT);
    let spaces = end - PREFIX - text.len() - 1;
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
        ] {
            let mut bytes = Vec::new();
            write(&mut bytes, "<f4", shape, [[1u8, 2], [3, 4]]).unwrap();
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
