//! Features as one NumPy array, and beside it which row is which video.
//!
//! Invariant: the two files have their names only when they are whole, and the features are never all in memory.

use std::io::{self, BufWriter, Write};
use std::path::PathBuf;

use serde_json::{Value, json as object};
use tempfile::NamedTempFile;

use super::{Args, unlike, wanted};
use crate::client::whole::{beside, failed, named};
use crate::client::{Error, json, npy};
use crate::proto::v1;

/// The array so far.
pub(super) struct Array {
    out: PathBuf,
    index: PathBuf,
    per_frame: bool,
    file: BufWriter<NamedTempFile>,
    element: v1::ElementType,
    /// Shape of each row.
    shape: Vec<u32>,
    rows: Vec<Value>,
}

impl Array {
    pub(super) fn open(args: &Args) -> Result<Self, Error> {
        let out = args.out.clone();
        let index = out.with_extension("json");
        if index == out {
            let problem = "--out: expected a file name that ends in .npy, since the .json beside it says which row is which video";
            return Err(Error::Usage(problem.into()));
        }
        for path in [&out, &index] {
            if path.exists() && !args.force {
                return Err(Error::Exists { path: path.clone() });
            }
        }
        let begin = || -> io::Result<_> {
            let mut file = BufWriter::new(beside(&out)?);
            npy::begin(&mut file)?;
            Ok(file)
        };
        let file = begin().map_err(|source| failed(&out, source))?;
        Ok(Self {
            out,
            index,
            per_frame: args.per_frame,
            file,
            element: v1::ElementType::default(),
            shape: Vec::new(),
            rows: Vec::new(),
        })
    }

    pub(super) fn add(&mut self, video: &str, answer: &v1::EmbedResponse) -> Result<Value, Error> {
        let row = object!({
            "row": self.rows.len(),
            "video": video,
            "version": answer.version,
            "backbone_digest": json::hex(&answer.backbone_digest),
            "frames": json::frames(&answer.sampled),
        });
        let array = wanted(answer, self.per_frame)?;
        if self.rows.is_empty() {
            (self.element, self.shape) = (array.r#type(), array.shape.clone());
        } else if (self.element, &self.shape) != (array.r#type(), &array.shape) {
            return Err(unlike(video, "shape"));
        }
        let written = self.file.write_all(&array.data);
        written.map_err(|source| failed(&self.out, source))?;
        self.rows.push(row.clone());
        Ok(row)
    }

    pub(super) fn finish(self) -> Result<(), Error> {
        if self.rows.is_empty() {
            return Ok(());
        }
        let descr = match self.element {
            v1::ElementType::F16 => "<f2",
            v1::ElementType::F32 | v1::ElementType::Unspecified => "<f4",
        };
        let sizes = self.shape.iter().map(|&size| size as usize);
        let shape: Vec<usize> = std::iter::once(self.rows.len()).chain(sizes).collect();
        let mut file = self.file;
        let ended = npy::end(&mut file, descr, &shape);
        let whole = ended.and_then(|()| named(unbuffered(file)?, &self.out));
        whole.map_err(|source| failed(&self.out, source))?;
        let index = || -> io::Result<()> {
            let mut file = BufWriter::new(beside(&self.index)?);
            let index = object!({ "shape": shape, "rows": self.rows });
            writeln!(file, "{index:#}")?;
            named(unbuffered(file)?, &self.index)
        };
        index().map_err(|source| failed(&self.index, source))
    }
}

/// A file of which everything is written.
fn unbuffered(file: BufWriter<NamedTempFile>) -> io::Result<NamedTempFile> {
    file.into_inner().map_err(io::IntoInnerError::into_error)
}
