//! Text files as editors save them: UTF-8 or UTF-16, with or without a byte order mark.
//!
//! Invariant: bytes that are no text are never guessed; the message names line and column.

use std::borrow::Cow;
use std::path::Path;

use super::Error;

/// A place where a file is no text.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NoText {
    /// The line, from 1.
    pub(super) line: u64,
    /// The fault, and how to mend it.
    pub(super) problem: String,
}

/// Reads a text file.
///
/// # Errors
/// When it cannot be read or is no text.
pub(super) fn read(path: &Path) -> Result<String, Error> {
    let bytes = std::fs::read(path).map_err(|source| Error::Read {
        path: path.to_owned(),
        source,
    })?;
    match decode(&bytes) {
        Ok(text) => Ok(text.into_owned()),
        Err(NoText { line, problem }) => Err(Error::List {
            path: path.to_owned(),
            line,
            problem,
        }),
    }
}

/// The text of a file, without a byte order mark.
///
/// # Errors
/// At the first byte that is no text.
pub(super) fn decode(bytes: &[u8]) -> Result<Cow<'_, str>, NoText> {
    match bytes {
        [0xff, 0xfe, units @ ..] => utf16(units, u16::from_le_bytes).map(Cow::Owned),
        [0xfe, 0xff, units @ ..] => utf16(units, u16::from_be_bytes).map(Cow::Owned),
        [0xef, 0xbb, 0xbf, text @ ..] => utf8(text).map(Cow::Borrowed),
        text => utf8(text).map(Cow::Borrowed),
    }
}

fn utf16(bytes: &[u8], unit: fn([u8; 2]) -> u16) -> Result<String, NoText> {
    let (units, rest) = bytes.as_chunks::<2>();
    let characters = char::decode_utf16(units.iter().map(|&pair| unit(pair)));
    match characters.collect::<Result<String, _>>() {
        Ok(text) if rest.is_empty() => Ok(text),
        Ok(_) | Err(_) => Err(NoText {
            line: 1,
            problem: "begins like UTF-16 and is not; save it as UTF-8".to_owned(),
        }),
    }
}

fn utf8(bytes: &[u8]) -> Result<&str, NoText> {
    std::str::from_utf8(bytes).map_err(|error| {
        let good = &bytes[..error.valid_up_to()];
        let end = good.iter().rposition(|&byte| byte == b'\n');
        let begin = end.map_or(0, |end| end + 1);
        let line = good.iter().filter(|&&byte| byte == b'\n').count() as u64 + 1;
        let column = String::from_utf8_lossy(&good[begin..]).chars().count() + 1;
        let byte = bytes.get(error.valid_up_to()).copied().unwrap_or_default();
        NoText {
            line,
            problem: format!("not UTF-8 (byte 0x{byte:02x} at column {column}); save it as UTF-8"),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_any_unicode_encoding_is_the_same_text() {
        let text = "caf\u{e9}\r\nb";
        let marked = |order: fn(u16) -> [u8; 2]| -> Vec<u8> {
            let units = "\u{feff}".encode_utf16().chain(text.encode_utf16());
            units.flat_map(order).collect()
        };
        for bytes in [
            text.as_bytes().to_vec(),
            format!("\u{feff}{text}").into_bytes(),
            marked(u16::to_le_bytes),
            marked(u16::to_be_bytes),
        ] {
            assert_eq!(decode(&bytes).unwrap(), text);
        }
    }

    #[test]
    fn bytes_that_are_no_text_are_named_with_their_place() {
        let NoText { line, problem } = decode(b"left\nth\xe9 vert").unwrap_err();
        assert_eq!(line, 2);
        assert_eq!(
            problem,
            "not UTF-8 (byte 0xe9 at column 3); save it as UTF-8"
        );
        assert_eq!(decode(b"\xff\xfea").unwrap_err().line, 1);
    }
}
