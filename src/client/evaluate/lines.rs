//! The file of an evaluation's scores, one JSON object a line, and beside it how far it is.
//!
//! Invariant: a clip is in the file once, however often the evaluation was interrupted; a file of something else is not replaced unasked.

use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use serde_json::{Value, json as object};

use crate::client::{Error, json};
use crate::proto::v1::{self, evaluate_version_response as response};

/// A file of scores.
pub(super) struct Lines {
    path: PathBuf,
    file: BufWriter<File>,
    written: u64,
    token: Bytes,
    request: v1::EvaluateVersionRequest,
}

impl Lines {
    /// Opens a file; goes on with one that an interrupted evaluation of the same left.
    pub(super) fn open(
        path: &Path,
        request: &v1::EvaluateVersionRequest,
        force: bool,
    ) -> Result<Self, Error> {
        let failed = |source| Error::Write {
            path: path.to_owned(),
            source,
        };
        let state = std::fs::read(state_of(path)).ok();
        let state = state.and_then(|text| serde_json::from_slice::<Value>(&text).ok());
        let own = state.filter(|state| state["request"] == named(request));
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
            request: request.clone(),
        })
    }

    /// The token to go on with; empty to begin.
    pub(super) fn token(&self) -> Bytes {
        self.token.clone()
    }

    /// Adds clips; with their token they are durable progress.
    pub(super) fn add(&mut self, clips: &response::Clips) -> Result<(), Error> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| Error::Write { path, source }
        };
        for clip in &clips.clips {
            let line = format!("{}\n", json::clip_evaluation(clip));
            self.file
                .write_all(line.as_bytes())
                .map_err(failed(&self.path))?;
            self.written += line.len() as u64;
        }
        if clips.resume_token.is_empty() {
            return Ok(());
        }
        self.file.flush().map_err(failed(&self.path))?;
        let state = object!({
            "request": named(&self.request),
            "bytes": self.written,
            "token": json::hex(&clips.resume_token),
        });
        let path = state_of(&self.path);
        std::fs::write(&path, state.to_string()).map_err(failed(&path))
    }

    /// The evaluation is whole.
    pub(super) fn finish(mut self) -> Result<(), Error> {
        let path = self.path.clone();
        let failed = |source| Error::Write { path, source };
        self.file.flush().map_err(failed)?;
        // The file is whole; what is beside it only said how far it was.
        let _ = std::fs::remove_file(state_of(&self.path));
        Ok(())
    }
}

/// What an evaluation has to have in common with the one that it goes on with.
fn named(request: &v1::EvaluateVersionRequest) -> Value {
    object!([
        request.version,
        request.dataset,
        request.split,
        request.top_k
    ])
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

    fn clips(videos: &[&str], token: &str) -> response::Clips {
        let clip = |video: &&str| v1::ClipEvaluation {
            video: (*video).to_owned(),
            ..Default::default()
        };
        response::Clips {
            clips: videos.iter().map(clip).collect(),
            resume_token: token.to_owned().into(),
        }
    }

    #[test]
    fn a_file_that_was_interrupted_goes_on_after_the_last_token_and_another_is_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("scores.jsonl");
        let request = v1::EvaluateVersionRequest {
            version: "tasks/t/versions/1".into(),
            ..Default::default()
        };
        let mut lines = Lines::open(&path, &request, false).unwrap();
        lines.add(&clips(&["a", "b"], "one")).unwrap();
        lines.add(&clips(&["c"], "")).unwrap();
        lines.file.flush().unwrap();
        drop(lines);

        let other = v1::EvaluateVersionRequest {
            version: "tasks/t/versions/2".into(),
            ..Default::default()
        };
        let refused = Lines::open(&path, &other, false).err();
        assert!(matches!(refused, Some(Error::Exists { .. })));

        let mut lines = Lines::open(&path, &request, false).unwrap();
        assert_eq!(lines.token, "one");
        lines.add(&clips(&["c", "d"], "two")).unwrap();
        lines.finish().unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let videos: Vec<String> = text
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap()["video"].to_string())
            .collect();
        assert_eq!(videos, ["\"a\"", "\"b\"", "\"c\"", "\"d\""]);
        assert!(!state_of(&path).exists());
        assert!(matches!(
            Lines::open(&path, &request, false).err(),
            Some(Error::Exists { .. })
        ));
        let replaced = Lines::open(&path, &request, true).unwrap();
        assert_eq!(replaced.written, 0);
    }
}
