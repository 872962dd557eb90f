//! Pages of a snapshot on the disk, between the transaction that reads them and those that write them.
//!
//! Invariant: memory holds one page and where the others are; the file has no name, so that nothing is left of it.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use super::super::super::Result;
use super::super::failure::of_a_file;
use crate::blocking::blocking_io;

/// Pages in the order in which they were added.
pub(super) struct Spool {
    file: Arc<File>,
    /// Where each page begins, and its length in bytes.
    pages: Vec<(u64, usize)>,
    end: u64,
}

impl Spool {
    pub(super) async fn new() -> Result<Self> {
        let file = blocking_io(tempfile::tempfile).await.map_err(of_a_file)?;
        Ok(Self {
            file: Arc::new(file),
            pages: Vec::new(),
            end: 0,
        })
    }

    pub(super) async fn push(&mut self, page: String) -> Result<()> {
        let (file, at, length) = (Arc::clone(&self.file), self.end, page.len());
        let written = blocking_io(move || file.write_all_at(page.as_bytes(), at)).await;
        written.map_err(of_a_file)?;
        self.pages.push((at, length));
        self.end += length as u64;
        Ok(())
    }

    /// A page by its number; `None` after the last one.
    pub(super) async fn page(&self, number: usize) -> Result<Option<String>> {
        let Some(&(at, length)) = self.pages.get(number) else {
            return Ok(None);
        };
        let file = Arc::clone(&self.file);
        let read = blocking_io(move || {
            let mut bytes = vec![0; length];
            file.read_exact_at(&mut bytes, at)?;
            String::from_utf8(bytes).map_err(std::io::Error::other)
        });
        read.await.map(Some).map_err(of_a_file)
    }
}
