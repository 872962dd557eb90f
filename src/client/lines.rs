//! A file of answers, one JSON object a line or as Parquet, and beside it how far it is.
//!
//! Invariant: an answer is in the file once, however often the command was interrupted; a file of something else is not replaced unasked. A Parquet
//! file is made of the lines when they are all there.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use serde_json::{Value, json as object};

use super::columnar::Columns;
use super::{Error, format, json};

/// A file of answers that a command writes.
pub(super) struct Place<'a> {
    /// The file.
    pub(super) path: &'a Path,
    /// Its form.
    pub(super) form: format::Answers,
    /// Whether it replaces a file.
    pub(super) force: bool,
}

impl<'a> Place<'a> {
    /// Finds the form of a file.
    ///
    /// # Errors
    /// When the ending is that of another form.
    pub(super) fn of(
        path: &'a Path,
        asked: Option<format::Answers>,
        force: bool,
    ) -> Result<Self, Error> {
        let form = format::of(path, asked, format::Answers::Jsonl)?;
        Ok(Self { path, form, force })
    }
}

/// Columns of the answers as Parquet, and what is said of all of them.
pub(super) struct Shape {
    /// The schema, in Parquet's notation. Its fields are those of a line, but for `type`.
    pub(super) schema: &'static str,
    /// What the whole file says of itself, by name.
    pub(super) about: Vec<(&'static str, String)>,
    /// The row of a line.
    pub(super) row: fn(Value) -> Value,
}

/// A file of answers.
pub(super) struct Lines {
    path: PathBuf,
    /// The Parquet file that is made of the lines.
    parquet: Option<(PathBuf, Shape)>,
    file: BufWriter<File>,
    written: u64,
    token: Bytes,
    subject: Value,
}

impl Lines {
    /// Opens a file; goes on with one that an interrupted command about the same subject left.
    ///
    /// # Errors
    /// When a file of something else is there, or nothing can be written.
    pub(super) fn open(place: &Place<'_>, subject: Value, shape: Shape) -> Result<Self, Error> {
        let Place { path, force, .. } = *place;
        let parquet = match place.form {
            format::Answers::Jsonl => None,
            format::Answers::Parquet if path.exists() && !force => {
                let path = path.to_owned();
                return Err(Error::Exists { path });
            }
            format::Answers::Parquet => Some((path.to_owned(), shape)),
        };
        let path = match &parquet {
            None => path.to_owned(),
            Some((out, _)) => beside(out, ".lines"),
        };
        let mut lines = Self::begin(&path, subject, force)?;
        lines.parquet = parquet;
        Ok(lines)
    }

    fn begin(path: &Path, subject: Value, force: bool) -> Result<Self, Error> {
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
            parquet: None,
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
        if let Some((out, shape)) = &self.parquet {
            convert(&self.path, out, shape)?;
            // All of it is in the Parquet file.
            let _ = std::fs::remove_file(&self.path);
        }
        // The file is whole; what is beside it only said how far it was.
        let _ = std::fs::remove_file(state_of(&self.path));
        Ok(())
    }
}

/// Makes a Parquet file of lines, some at a time.
fn convert(lines: &Path, out: &Path, shape: &Shape) -> Result<(), Error> {
    let failed = |source| Error::Read {
        path: lines.to_owned(),
        source,
    };
    let mut columns = Columns::create(out, shape.schema)?;
    for (key, value) in &shape.about {
        columns.describe(key, value.as_str());
    }
    let file = File::open(lines).map_err(failed)?;
    for line in BufReader::new(file).lines() {
        let line = line.map_err(failed)?;
        let line: Value = serde_json::from_str(&line)
            .map_err(io::Error::from)
            .map_err(failed)?;
        columns.add(&(shape.row)(line), &[])?;
    }
    columns.finish()
}

/// Where it is kept how far a file is.
fn state_of(path: &Path) -> PathBuf {
    beside(path, ".resume")
}

/// The file beside another whose name is longer by an ending.
fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(ending);
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

    const SCHEMA: &str = "message answer { required binary video (STRING); }";

    fn open(path: &Path, subject: Value, force: bool) -> Result<Lines, Error> {
        let shape = Shape {
            schema: SCHEMA,
            about: vec![("version", "tasks/t/versions/1".to_owned())],
            row: |line| line,
        };
        Lines::open(&Place::of(path, None, force)?, subject, shape)
    }

    #[test]
    fn a_parquet_file_is_made_of_the_lines_of_several_runs_and_nothing_is_left_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("scores.parquet");
        let own = object!(["t", 1]);
        let mut lines = open(&path, own.clone(), false).unwrap();
        lines.add(answers(&["a", "b"]), b"one").unwrap();
        lines.add(answers(&["c"]), b"").unwrap();
        drop(lines);
        assert!(!path.exists());
        let refused = open(&path, object!(["t", 2]), false).err();
        assert!(matches!(refused, Some(Error::Exists { .. })));
        let mut lines = open(&path, own.clone(), false).unwrap();
        assert_eq!(lines.token, "one");
        lines.add(answers(&["c", "d"]), b"two").unwrap();
        lines.finish().unwrap();
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!(
            (&bytes[..4], &bytes[bytes.len() - 4..]),
            (&b"PAR1"[..], &b"PAR1"[..])
        );
        let names: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
        assert_eq!(names.len(), 1, "{names:?}");
        let there = open(&path, own, false).err();
        assert!(matches!(there, Some(Error::Exists { .. })));
    }

    #[test]
    fn a_file_that_was_interrupted_goes_on_after_the_last_token_and_another_is_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("scores.jsonl");
        let (own, other) = (object!(["t", 1]), object!(["t", 2]));
        let mut lines = open(&path, own.clone(), false).unwrap();
        lines.add(answers(&["a", "b"]), b"one").unwrap();
        lines.add(answers(&["c"]), b"").unwrap();
        lines.file.flush().unwrap();
        drop(lines);

        let refused = open(&path, other, false).err();
        assert!(matches!(refused, Some(Error::Exists { .. })));

        let mut lines = open(&path, own.clone(), false).unwrap();
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
            open(&path, own.clone(), false).err(),
            Some(Error::Exists { .. })
        ));
        let replaced = open(&path, own, true).unwrap();
        assert_eq!(replaced.written, 0);
    }
}
