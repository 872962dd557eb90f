//! A file of answers, one JSON object a line, and beside it how far it is.
//!
//! Invariant: an answer is in the file once, however often the command was interrupted; a file of something else is not replaced unasked.

use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use serde_json::{Value, json as object};

use super::{Error, json};

/// A file of answers.
pub(super) struct Lines {
    path: PathBuf,
    file: BufWriter<File>,
    written: u64,
    token: Bytes,
    subject: Value,
}

impl Lines {
    /// Opens a file; goes on with one that an interrupted command about the same subject left.
    pub(super) fn open(path: &Path, subject: Value, force: bool) -> Result<Self, Error> {
        let failed = |source| Error::Write {
            path: path.to_owned(),
            source,
        };
        let state = std::fs::read(state_of(path)).ok();
        let state = state.and_then(|text| serde_json::from_slice::<Value>(&text).ok());
        let own = state.filter(|state| state["request"] == subject);
        let (written, token) = match own {
            Some(state) => (
                state["bytes"].as_u64().unwrap_or_default(),
                unhex(state["token"].as_str().unwrap_or_default()),
            ),
            None if path.exists() && !force => {
                return Err(Error::Exists {
                    path: path.to_owned(),
                });
            }
            None => (0, Bytes::new()),
        };
        let mut options = OpenOptions::new();
        options.create(true).write(true).truncate(false);
        let mut file = options.open(path).map_err(failed)?;
        // What was written after the token comes again.
        file.set_len(written).map_err(failed)?;
        file.seek(SeekFrom::End(0)).map_err(failed)?;
        Ok(Self {
            path: path.to_owned(),
            file: BufWriter::new(file),
            written,
            token,
            subject,
        })
    }

    /// The token to go on with; empty to begin.
    pub(super) fn token(&self) -> Bytes {
        self.token.clone()
    }

    /// Adds answers; with their token they are durable progress.
    pub(super) fn add(
        &mut self,
        answers: impl IntoIterator<Item = Value>,
        token: &[u8],
    ) -> Result<(), Error> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| Error::Write { path, source }
        };
        for answer in answers {
            let line = format!("{answer}\n");
            self.file
                .write_all(line.as_bytes())
                .map_err(failed(&self.path))?;
            self.written += line.len() as u64;
        }
        if token.is_empty() {
            return Ok(());
        }
        self.file.flush().map_err(failed(&self.path))?;
        let state = object!({
            "request": self.subject,
            "bytes": self.written,
            "token": json::hex(token),
        });
        let path = state_of(&self.path);
        std::fs::write(&path, state.to_string()).map_err(failed(&path))
    }

    /// The file is whole.
    pub(super) fn finish(mut self) -> Result<(), Error> {
        let path = self.path.clone();
        let failed = |source| Error::Write { path, source };
        self.file.flush().map_err(failed)?;
        // The file is whole; what is beside it only said how far it was.
        let _ = std::fs::remove_file(state_of(&self.path));
        Ok(())
    }
}

/// Where it is kept how far a file is.
fn state_of(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".resume");
    path.with_file_name(name)
}

fn unhex(text: &str) -> Bytes {
    let (pairs, _) = text.as_bytes().as_chunks::<2>();
    let byte = |pair: &[u8; 2]| {
        let pair = std::str::from_utf8(pair).ok()?;
        u8::from_str_radix(pair, 16).ok()
    };
    pairs.iter().filter_map(byte).collect::<Vec<u8>>().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answers(videos: &[&str]) -> Vec<Value> {
        videos
            .iter()
            .map(|video| object!({ "video": video }))
            .collect()
    }

    #[test]
    fn a_file_that_was_interrupted_goes_on_after_the_last_token_and_another_is_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("scores.jsonl");
        let (own, other) = (object!(["t", 1]), object!(["t", 2]));
        let mut lines = Lines::open(&path, own.clone(), false).unwrap();
        lines.add(answers(&["a", "b"]), b"one").unwrap();
        lines.add(answers(&["c"]), b"").unwrap();
        lines.file.flush().unwrap();
        drop(lines);

        let refused = Lines::open(&path, other, false).err();
        assert!(matches!(refused, Some(Error::Exists { .. })));

        let mut lines = Lines::open(&path, own.clone(), false).unwrap();
        assert_eq!(lines.token, "one");
        lines.add(answers(&["c", "d"]), b"two").unwrap();
        lines.finish().unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let videos: Vec<String> = text
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap()["video"].to_string())
            .collect();
        assert_eq!(videos, ["\"a\"", "\"b\"", "\"c\"", "\"d\""]);
        assert!(!state_of(&path).exists());
        assert!(matches!(
            Lines::open(&path, own.clone(), false).err(),
            Some(Error::Exists { .. })
        ));
        let replaced = Lines::open(&path, own, true).unwrap();
        assert_eq!(replaced.written, 0);
    }
}
