//! How long `frameshift fsck --deep` takes, and how much memory.
//!
//! Invariant: the data directory that is checked is whole, and the check says so.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::figures::{Figures, Goal};
use super::fill::{probe, record};
use super::{Args, Error};
use crate::ids::{TenantId, VideoId};
use crate::metadata::{Config, Database, MetadataStore, NewVideo};
use crate::spec::Digest;
use crate::store::{Store, layout};
use crate::tools::bench_serve::resident_bytes;
use crate::tools::fsck;

/// Bytes of an object.
const SIZE: usize = 64 << 10;
/// Objects that are written at a time.
const WRITERS: usize = 16;
/// Time between two looks at the memory.
const LOOK: Duration = Duration::from_millis(20);

/// Measures.
///
/// # Errors
/// When the disk or the database fails, or the check finds something.
pub(super) async fn measure(arguments: &Args, figures: &mut Figures) -> Result<(), Error> {
    let folder = tempfile::tempdir().map_err(Error::Folder)?;
    let data_dir = folder.path().to_owned();
    let tenant: TenantId = record("bench".parse())?;
    let bytes = Bytes::from(vec![7; SIZE]);
    let database = Database::open(Config::at(data_dir.join("metadata.sqlite"))).await?;
    let video = NewVideo {
        id: VideoId::generate(),
        size_bytes: SIZE as u64,
        sha256: Digest(Sha256::digest(&bytes).into()),
        probe: probe(),
    };
    let store: &dyn MetadataStore = &database;
    let first = store.record_video(&tenant, "clip.mp4", video, None).await?;
    let copies = (1..arguments.blobs).map(|_| VideoId::generate());
    let copies: Vec<VideoId> = copies.collect();
    database.copy_video(&tenant, first.id, &copies).await?;
    database.close().await?;
    let objects = Store::open(&data_dir.join("objects"))?;
    let all = copies.into_iter().chain([first.id]);
    let puts = all.map(|video| {
        let (key, bytes, objects) = (layout::video(&tenant, video), bytes.clone(), &objects);
        async move { objects.put(&key, bytes).await }
    });
    let puts = stream::iter(puts).buffer_unordered(WRITERS);
    puts.try_collect::<()>().await?;

    let state = fsck::State {
        data_dir,
        bucket: None,
        server: None,
    };
    let wanted = fsck::Args {
        deep: true,
        repair: false,
        data_dir: None,
        config: None,
    };
    let memory = Memory::watch();
    let begun = Instant::now();
    let report = fsck::run(state, &wanted).await?;
    let took = begun.elapsed();
    let grown = memory.grown().await?;
    if report.findings > 0 || report.objects != u64::from(arguments.blobs) {
        return Err(Error::Record(format!("the check found {report:?}")));
    }
    let name = format!("fsck --deep of {} objects", report.objects);
    let more = json!({ "bytes": report.bytes, "memory_mib": grown >> 20 });
    figures.tell(&name, (took.as_secs_f64(), "s"), Goal::AtMost(60.0), more);
    let name = "memory of fsck --deep";
    let value = grown as f64 / f64::from(1 << 20);
    let more = json!({ "objects": report.objects });
    figures.tell(name, (value, "MiB"), Goal::AtMost(64.0), more);
    Ok(())
}

/// Watches the memory of this process.
struct Memory {
    before: u64,
    most: Arc<AtomicU64>,
    is_over: Arc<AtomicBool>,
    looks: tokio::task::JoinHandle<()>,
}

impl Memory {
    fn watch() -> Self {
        let now = || resident_bytes(std::process::id()).unwrap_or(0);
        let before = now();
        let most = Arc::new(AtomicU64::new(before));
        let is_over = Arc::new(AtomicBool::new(false));
        let (most_seen, ends) = (Arc::clone(&most), Arc::clone(&is_over));
        let looks = tokio::spawn(async move {
            while !ends.load(Ordering::Relaxed) {
                most_seen.fetch_max(now(), Ordering::Relaxed);
                tokio::time::sleep(LOOK).await;
            }
        });
        Self {
            before,
            most,
            is_over,
            looks,
        }
    }

    /// Bytes by which the memory has grown at most.
    async fn grown(self) -> Result<u64, Error> {
        self.is_over.store(true, Ordering::Relaxed);
        self.looks.await?;
        let most = self.most.load(Ordering::Relaxed);
        Ok(most.saturating_sub(self.before))
    }
}
