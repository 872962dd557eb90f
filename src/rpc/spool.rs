//! Holds the file of one request, a video or adapters: small ones in memory, larger ones in a file that has no name.
//!
//! Invariant: memory is bounded by [`IN_MEMORY`] and one chunk, and nothing stays on the disk, whatever happens to the process.

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use tonic::Status;

use crate::rpc::status;
use crate::store;
use crate::video::Input;

/// Bytes that are held in memory: most clips are smaller.
const IN_MEMORY: usize = 4 << 20;

/// Bytes that came so far.
#[derive(Debug)]
pub(in crate::rpc) struct Spool {
    folder: PathBuf,
    limit: u64,
    size: u64,
    held: Held,
}

/// Where the bytes are.
#[derive(Debug)]
pub(in crate::rpc) enum Held {
    /// In memory.
    Memory(Vec<u8>),
    /// In a file that has no name.
    File(Arc<File>),
}

impl Spool {
    /// An empty spool; its file, if it needs one, lies in `folder`.
    pub(in crate::rpc) fn new(folder: PathBuf, limit: u64) -> Self {
        Self {
            folder,
            limit,
            size: 0,
            held: Held::Memory(Vec::new()),
        }
    }

    /// Appends a chunk.
    pub(in crate::rpc) async fn write(&mut self, chunk: Bytes) -> Result<(), Status> {
        self.size += chunk.len() as u64;
        if self.size > self.limit {
            return Err(status::too_large(self.limit));
        }
        match &mut self.held {
            Held::Memory(bytes) if bytes.len() + chunk.len() <= IN_MEMORY => {
                bytes.extend_from_slice(&chunk);
            }
            Held::Memory(bytes) => {
                let bytes = std::mem::take(bytes);
                let folder = self.folder.clone();
                let file = blocking(move || {
                    let mut file = tempfile::tempfile_in(folder)?;
                    file.write_all(&bytes)?;
                    file.write_all(&chunk)?;
                    Ok(Arc::new(file))
                });
                self.held = Held::File(file.await?);
            }
            Held::File(file) => {
                let file = Arc::clone(file);
                blocking(move || (&*file).write_all(&chunk)).await?;
            }
        }
        Ok(())
    }

    /// The file as it is held.
    pub(in crate::rpc) fn into_held(self) -> Held {
        self.held
    }

    /// The video.
    pub(in crate::rpc) fn into_input(self) -> Input {
        match self.held {
            Held::Memory(bytes) => Input::Bytes(bytes.into()),
            Held::File(file) => Input::File(file),
        }
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<T, Status> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(std::io::Error::other)
        .and_then(|result| result)
        .map_err(|error| store::Error::of_storage("spool", "a request's file", error.into()).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;
    use tonic::Code;

    async fn spooled(chunks: usize, limit: u64) -> Result<Input, Status> {
        let mut spool = Spool::new(std::env::temp_dir(), limit);
        for i in 0..chunks {
            spool.write(Bytes::from(vec![i as u8; 1 << 20])).await?;
        }
        Ok(spool.into_input())
    }

    #[tokio::test]
    async fn a_small_video_stays_in_memory_and_a_large_one_does_not() {
        assert!(
            matches!(spooled(4, 1 << 30).await, Ok(Input::Bytes(bytes)) if bytes.len() == 4 << 20)
        );
        let Ok(Input::File(file)) = spooled(7, 1 << 30).await else {
            panic!("seven MiB are in memory");
        };
        assert_eq!(file.metadata().unwrap().len(), 7 << 20);
        let mut byte = [0];
        file.read_exact_at(&mut byte, (6 << 20) + 5).unwrap();
        assert_eq!(byte, [6]);
    }

    #[tokio::test]
    async fn one_byte_above_the_limit_is_refused() {
        assert!(spooled(2, 2 << 20).await.is_ok());
        let refused = spooled(2, (2 << 20) - 1).await.unwrap_err();
        assert_eq!(refused.code(), Code::ResourceExhausted);
    }
}
