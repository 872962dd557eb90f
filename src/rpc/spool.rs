//! Holds the file of one request, a video or adapters: small ones in memory, larger ones in a file that has no name.
//!
//! Invariant: memory is bounded by [`IN_MEMORY`] and one chunk, memory and disk are drawn from the pools before they are taken, and nothing stays on the
//! disk, whatever happens to the process.

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use tonic::Status;

use crate::blocking::blocking_io;
use crate::rpc::pool::{Pools, Share};
use crate::rpc::status;
use crate::store;
use crate::video::Input;

/// Bytes that are held in memory: most clips are smaller.
const IN_MEMORY: usize = 4 << 20;
/// Memory that is drawn for the bytes in memory: the buffer, its copy while it grows, and a chunk.
const MEMORY_BYTES: u64 = 9 << 20;
/// Disk space that is drawn at a time, in bytes.
const STEP: u64 = 16 << 20;

/// Bytes of a request's file that have come so far.
#[derive(Debug)]
pub(in crate::rpc) struct Spool {
    folder: PathBuf,
    limit: u64,
    size: u64,
    held: Held,
    room: Room,
}

/// Memory and disk space of a spooled file, given back when this is dropped.
#[derive(Debug)]
pub(in crate::rpc) struct Room {
    pools: Pools,
    memory: Option<Share>,
    disk: Vec<Share>,
}

impl Room {
    /// Draws more disk space when what was drawn is less than the given number of bytes.
    fn fit(&mut self, bytes: u64) -> Result<(), Status> {
        while bytes > STEP * self.disk.len() as u64 {
            self.disk.push(self.pools.spool.try_take(STEP)?);
        }
        Ok(())
    }
}

/// A spooled file, in memory or on the disk.
#[derive(Debug)]
pub(in crate::rpc) enum Held {
    /// The file is in memory.
    Memory(Vec<u8>),
    /// The file is on the disk and has no name.
    File(Arc<File>),
}

impl Spool {
    /// Creates an empty spool, whose file lies in `folder` if it needs one. Waits for memory.
    pub(in crate::rpc) async fn new(
        pools: &Pools,
        folder: PathBuf,
        limit: u64,
    ) -> Result<Self, Status> {
        Ok(Self {
            folder,
            limit,
            size: 0,
            held: Held::Memory(Vec::new()),
            room: Room {
                memory: Some(pools.memory.take(MEMORY_BYTES).await?),
                disk: Vec::new(),
                pools: pools.clone(),
            },
        })
    }

    /// Returns the number of bytes so far.
    pub(in crate::rpc) fn size(&self) -> u64 {
        self.size
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
                self.room.fit(self.size)?;
                let bytes = std::mem::take(bytes);
                let folder = self.folder.clone();
                let file = on_disk(move || {
                    let mut file = tempfile::tempfile_in(folder)?;
                    file.write_all(&bytes)?;
                    file.write_all(&chunk)?;
                    Ok(Arc::new(file))
                });
                self.held = Held::File(file.await?);
                self.room.memory = None;
            }
            Held::File(file) => {
                self.room.fit(self.size)?;
                let file = Arc::clone(file);
                on_disk(move || (&*file).write_all(&chunk)).await?;
            }
        }
        Ok(())
    }

    /// Returns the file, and the room that it takes for as long as it is held.
    pub(in crate::rpc) fn into_held(self) -> (Held, Room) {
        (self.held, self.room)
    }

    /// Returns the video, and the room that it takes for as long as it is held.
    pub(in crate::rpc) fn into_input(self) -> (Input, Room) {
        let input = match self.held {
            Held::Memory(bytes) => Input::Bytes(bytes.into()),
            Held::File(file) => Input::File(file),
        };
        (input, self.room)
    }
}

async fn on_disk<T: Send + 'static>(
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<T, Status> {
    let done = blocking_io(work).await;
    done.map_err(|error| store::Error::of_storage("spool", "a request's file", error.into()).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rpc::Limits;
    use std::os::unix::fs::FileExt;
    use tonic::Code;

    async fn spooled(chunks: usize, limit: u64) -> Result<Input, Status> {
        let pools = Pools::new(&Limits::default());
        Ok(spooled_from(&pools, chunks, limit).await?.0)
    }

    async fn spooled_from(
        pools: &Pools,
        chunks: usize,
        limit: u64,
    ) -> Result<(Input, Room), Status> {
        let mut spool = Spool::new(pools, std::env::temp_dir(), limit).await?;
        for i in 0..chunks {
            spool.write(Bytes::from(vec![i as u8; 1 << 20])).await?;
        }
        Ok(spool.into_input())
    }

    #[tokio::test]
    async fn memory_and_disk_are_drawn_and_given_back() {
        let pools = Pools::new(&Limits {
            upload_memory: 2 * MEMORY_BYTES,
            spool_bytes: 2 * STEP,
            ..Limits::default()
        });
        let (_, small) = spooled_from(&pools, 3, 1 << 30).await.unwrap();
        assert_eq!(pools.memory.used(), MEMORY_BYTES);
        assert_eq!(pools.spool.used(), 0);
        let (_, large) = spooled_from(&pools, 20, 1 << 30).await.unwrap();
        assert_eq!(pools.memory.used(), MEMORY_BYTES, "the file is on the disk");
        assert_eq!(pools.spool.used(), 2 * STEP);
        let refused = spooled_from(&pools, 20, 1 << 30).await.map(drop);
        assert_eq!(refused.unwrap_err().code(), Code::ResourceExhausted);
        assert_eq!(pools.spool.used(), 2 * STEP);
        drop((small, large));
        assert_eq!((pools.memory.used(), pools.spool.used()), (0, 0));
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
