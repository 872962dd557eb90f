//! Decoded frames on the disk, for the jobs of this process and of those after it, within a budget of bytes.
//!
//! Invariant: a file is named by its tenant and by what its frames are decoded from and how; no job reads another tenant's, and no tenant's files give way to
//! those of a tenant that has as many bytes. Files spare work only: whatever is wrong with one, it is removed and its video decoded again.

mod file;

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use sha2::{Digest as _, Sha256};
use tokio::time::Instant;

use crate::ids::{TenantId, VideoId};
use crate::metadata::VideoRecord;
use crate::spec::Digest;
use crate::telemetry::Metrics;
use crate::telemetry::metrics::DecodedUse;
use file::Shape;

/// Most frames of a file: videos with more are decoded again in every epoch.
pub(super) const FRAMES: u32 = 512;
/// A file may take this part of the budget at most.
const SHARE: u64 = 8;
/// Time for which no room is looked for after none was found.
const FULL: Duration = Duration::from_secs(1);
/// Time for which nothing is written to a disk that was full or failed.
const PAUSE: Duration = Duration::from_secs(30);
/// Beginning of the names of files that are being written.
const PART: &str = ".part-";

/// Whose frames a file has, and what they are.
type Name = (TenantId, Digest);

/// The files of this process.
#[derive(Debug)]
pub(super) struct Decoded {
    folder: PathBuf,
    total: u64,
    metrics: Metrics,
    /// Held for a look-up and for the choice of what is removed, never while a file is read or written.
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    files: HashMap<Name, Held>,
    /// Bytes of the files, those that are being written included: of all, and of each tenant.
    bytes: u64,
    of_tenant: HashMap<TenantId, u64>,
    /// Counts uses of files, starts of jobs, and files that were begun.
    clock: u64,
    /// Jobs under way.
    jobs: HashSet<u64>,
    /// When a disk that was full or failed is tried again.
    paused: Option<Instant>,
    /// Until when nothing gives way to jobs for which there was no room: looking for it goes through all files.
    full: HashMap<u64, Instant>,
}

#[derive(Debug)]
struct Held {
    video: VideoId,
    bytes: u64,
    /// When it was used last, and by which job; 0 in an earlier process.
    used: u64,
    job: u64,
    is_whole: bool,
}

impl State {
    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    fn of(&self, tenant: &TenantId) -> u64 {
        self.of_tenant.get(tenant).copied().unwrap_or_default()
    }

    fn insert(&mut self, name: Name, held: Held) {
        self.bytes += held.bytes;
        *self.of_tenant.entry(name.0.clone()).or_default() += held.bytes;
        self.files.insert(name, held);
    }

    fn remove(&mut self, name: &Name) -> Option<Held> {
        let held = self.files.remove(name)?;
        self.bytes = self.bytes.saturating_sub(held.bytes);
        if let Some(own) = self.of_tenant.get_mut(&name.0) {
            *own = own.saturating_sub(held.bytes);
            if *own == 0 {
                self.of_tenant.remove(&name.0);
            }
        }
        Some(held)
    }

    /// Takes out files until there is room for so many bytes of a job; `None` when there is none, and then all files stay.
    fn make_room(&mut self, user: &User, bytes: u64) -> Option<Vec<(Name, Held)>> {
        let mut victims = Vec::new();
        while self.bytes.saturating_add(bytes) > user.decoded.total {
            let full = self.full.get(&user.job);
            if full.is_some_and(|until| Instant::now() < *until) {
                return None;
            }
            let Some(victim) = self.victim(&user.tenant, bytes) else {
                victims
                    .into_iter()
                    .for_each(|(name, held)| self.insert(name, held));
                self.full.insert(user.job, Instant::now() + FULL);
                return None;
            };
            victims.extend(self.remove(&victim).map(|held| (victim, held)));
        }
        Some(victims)
    }

    /// The file that gives way to so many bytes of a tenant: the one that was used the longest ago, of the tenant that has the most bytes, as long as that is the
    /// tenant itself or has more than it will have. Files of jobs under way stay: an epoch that is larger than the budget would else find none of its own.
    fn victim(&self, tenant: &TenantId, bytes: u64) -> Option<Name> {
        let after = self.of(tenant).saturating_add(bytes);
        let gives_way = |(name, held): &(&Name, &Held)| {
            let may = &name.0 == tenant || self.of(&name.0) > after;
            may && held.is_whole && !self.jobs.contains(&held.job)
        };
        let candidates = self.files.iter().filter(gives_way);
        let order = |(name, held): &(&Name, &Held)| (self.of(&name.0), u64::MAX - held.used);
        candidates.max_by_key(order).map(|(name, _)| name.clone())
    }
}

impl Decoded {
    /// Opens the folder and takes over what an earlier process left; what is too much, unfinished or has another name is removed. With a budget of 0 there are
    /// no such files, and those of before are removed.
    ///
    /// # Errors
    /// When the folder cannot be read or written.
    pub(super) fn open(folder: &Path, total: u64, metrics: Metrics) -> io::Result<Option<Self>> {
        if total == 0 {
            return match fs::remove_dir_all(folder) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                Ok(()) | Err(_) => Ok(None),
            };
        }
        fs::create_dir_all(folder)?;
        let mut found = Vec::new();
        for tenant in fs::read_dir(folder)? {
            let tenant = tenant?.path();
            if let Some(owner) = name_of(&tenant).and_then(|name| name.parse().ok()) {
                found.extend(read_folder(&owner, &tenant)?);
            }
        }
        found.sort_by_key(|(time, ..)| *time);
        let mut state = State::default();
        // The newest come first, until the budget is spent.
        for (_, path, name, mut held) in found.into_iter().rev() {
            if state.bytes.saturating_add(held.bytes) > total || state.files.contains_key(&name) {
                fs::remove_file(&path)?;
                continue;
            }
            held.used = u64::MAX - state.files.len() as u64;
            state.insert(name, held);
        }
        // Uses of this process come after those of the earlier one.
        let count = state.files.len() as u64;
        for held in state.files.values_mut() {
            held.used = count - (u64::MAX - held.used);
        }
        state.clock = count;
        metrics.decoded_bytes(state.bytes);
        Ok(Some(Self {
            folder: folder.to_owned(),
            total,
            metrics,
            state: Mutex::new(state),
        }))
    }

    /// A job of a tenant whose videos are decoded in this way.
    pub(super) fn user(self: &Arc<Self>, tenant: &TenantId, decoding: &str) -> Arc<User> {
        let mut state = self.lock();
        let job = state.tick();
        state.jobs.insert(job);
        Arc::new(User {
            decoded: Arc::clone(self),
            tenant: tenant.clone(),
            decoding: decoding.to_owned(),
            job,
        })
    }

    /// The videos of which there are files.
    pub(super) fn videos(&self) -> HashMap<TenantId, HashSet<VideoId>> {
        let mut videos: HashMap<TenantId, HashSet<VideoId>> = HashMap::new();
        for (name, held) in &self.lock().files {
            let own = videos.entry(name.0.clone()).or_default();
            own.insert(held.video);
        }
        videos
    }

    /// Removes the files of videos that are gone.
    pub(super) fn forget(&self, tenant: &TenantId, gone: &HashSet<VideoId>) {
        let names: Vec<Name> = {
            let state = self.lock();
            let files = state.files.iter();
            let own = files.filter(|(name, held)| {
                &name.0 == tenant && held.is_whole && gone.contains(&held.video)
            });
            own.map(|(name, _)| name.clone()).collect()
        };
        for name in names {
            self.drop_file(&name);
        }
    }

    fn drop_file(&self, name: &Name) {
        let removed = {
            let mut state = self.lock();
            // What is being written has no file of this name yet.
            let is_whole = state.files.get(name).is_some_and(|held| held.is_whole);
            let removed = is_whole.then(|| state.remove(name)).flatten();
            self.metrics.decoded_bytes(state.bytes);
            removed
        };
        if let Some(held) = removed {
            self.unlink(&self.path(name, held.video));
        }
    }

    fn unlink(&self, path: &Path) {
        if let Err(error) = fs::remove_file(path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(%error, path = %path.display(), "decoded frames cannot be removed from the disk");
        }
    }

    fn path(&self, (tenant, key): &Name, video: VideoId) -> PathBuf {
        self.folder
            .join(tenant.as_str())
            .join(format!("{key}.{video}"))
    }

    fn fail(&self, error: &io::Error) {
        tracing::warn!(%error, "the disk for decoded frames is full or fails: videos are decoded again");
        self.lock().paused = Some(Instant::now() + PAUSE);
        self.metrics.decoded_used(DecodedUse::Disk);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Whatever panicked in between, a file without an entry is found at the next start.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn name_of(path: &Path) -> Option<&str> {
    path.file_name()?.to_str()
}

type Found = (SystemTime, PathBuf, Name, Held);

/// What an earlier process left of a tenant. Files that are not whole are removed.
fn read_folder(tenant: &TenantId, folder: &Path) -> io::Result<Vec<Found>> {
    let mut found = Vec::new();
    for file in fs::read_dir(folder)? {
        let file = file?;
        let (path, metadata) = (file.path(), file.metadata()?);
        let parsed = name_of(&path).and_then(|name| {
            let (key, video) = name.split_once('.')?;
            Some((key.parse().ok()?, video.parse().ok()?))
        });
        let Some((key, video)) = parsed.filter(|_| metadata.is_file()) else {
            if name_of(&path).is_some_and(|name| name.starts_with(PART)) {
                fs::remove_file(&path)?;
            }
            continue;
        };
        let held = Held {
            video,
            bytes: metadata.len(),
            used: 0,
            job: 0,
            is_whole: true,
        };
        found.push((metadata.modified()?, path, (tenant.clone(), key), held));
    }
    Ok(found)
}

/// One job's use of the files.
#[derive(Debug)]
pub(super) struct User {
    decoded: Arc<Decoded>,
    tenant: TenantId,
    decoding: String,
    job: u64,
}

/// Frames of a video: which video, what is taken of it, how many frames those are, and the side of each.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    pub(super) video: VideoId,
    /// sha256 of the video's bytes.
    pub(super) sha256: Digest,
    /// What is taken of the video, in words that no other request has.
    pub(super) what: String,
    pub(super) frames: u32,
    pub(super) side: u16,
}

impl Wanted {
    pub(super) fn of(record: &VideoRecord, what: String, (frames, side): (u32, u16)) -> Self {
        Self {
            video: record.id,
            sha256: record.sha256,
            what,
            frames,
            side,
        }
    }

    fn shape(&self) -> Shape {
        Shape {
            frames: self.frames,
            side: self.side,
        }
    }
}

impl User {
    fn name(&self, wanted: &Wanted) -> Name {
        let mut sha256 = Sha256::new();
        // Lengths keep one part from reaching into the next.
        for part in [self.tenant.as_str(), &self.decoding, &wanted.what] {
            sha256.update((part.len() as u64).to_le_bytes());
            sha256.update(part);
        }
        sha256.update(wanted.sha256.0);
        (self.tenant.clone(), Digest(sha256.finalize().into()))
    }

    /// Reads frames, in this order, as planes `[3, T, S, S]`; `None` when they are not there. Blocks.
    pub(super) fn read(&self, wanted: &Wanted, frames: &[u32]) -> Option<Arc<[f32]>> {
        let (decoded, name) = (&self.decoded, self.name(wanted));
        let path = {
            let mut state = decoded.lock();
            let used = state.tick();
            let held = state.files.get_mut(&name).filter(|held| held.is_whole)?;
            (held.used, held.job) = (used, self.job);
            decoded.path(&name, held.video)
        };
        match file::read(&path, (name.1, wanted.shape()), frames) {
            Ok(planes) => {
                decoded.metrics.decoded_used(DecodedUse::Hit);
                Some(planes)
            }
            Err(error) => {
                tracing::warn!(%error, path = %path.display(), "decoded frames on the disk cannot be used");
                decoded.metrics.decoded_used(DecodedUse::Damaged);
                decoded.drop_file(&name);
                None
            }
        }
    }

    /// Begins a file, for which others give way; `None` when it is too large, there is no room, or another job writes it now. Blocks.
    pub(super) fn begin(self: &Arc<Self>, wanted: &Wanted) -> Option<Writer> {
        let (decoded, name) = (&self.decoded, self.name(wanted));
        let shape = wanted.shape();
        if shape.frames == 0 || shape.frames > FRAMES || shape.bytes() > decoded.total / SHARE {
            decoded.metrics.decoded_used(DecodedUse::Large);
            return None;
        }
        let room = {
            let mut state = decoded.lock();
            if state.paused.is_some_and(|until| Instant::now() < until) {
                decoded.metrics.decoded_used(DecodedUse::Disk);
                return None;
            }
            if state.files.contains_key(&name) {
                return None;
            }
            let room = state.make_room(self, shape.bytes());
            let number = state.tick();
            if room.is_some() {
                let held = Held {
                    video: wanted.video,
                    bytes: shape.bytes(),
                    used: number,
                    job: self.job,
                    is_whole: false,
                };
                state.insert(name.clone(), held);
            }
            decoded.metrics.decoded_bytes(state.bytes);
            room.map(|victims| (number, victims))
        };
        let Some((number, victims)) = room else {
            decoded.metrics.decoded_used(DecodedUse::Full);
            return None;
        };
        for (name, held) in victims {
            decoded.unlink(&decoded.path(&name, held.video));
            decoded.metrics.decoded_used(DecodedUse::Evicted);
        }
        let folder = decoded.folder.join(self.tenant.as_str());
        let path = folder.join(format!("{PART}{number}"));
        let mut writer = Writer {
            user: Arc::clone(self),
            name,
            video: wanted.video,
            file: None,
            is_finished: false,
        };
        match file::Writer::begin(path, (writer.name.1, shape)) {
            Ok(file) => writer.file = Some(file),
            Err(error) => {
                decoded.fail(&error);
                return None;
            }
        }
        Some(writer)
    }
}

impl Drop for User {
    fn drop(&mut self) {
        let mut state = self.decoded.lock();
        state.jobs.remove(&self.job);
        // Its files may give way now.
        state.full.clear();
    }
}

/// A file that is being written; its room is given back unless it is finished.
#[derive(Debug)]
pub(super) struct Writer {
    user: Arc<User>,
    name: Name,
    video: VideoId,
    /// `None` once it is finished, or could not be begun.
    file: Option<file::Writer>,
    is_finished: bool,
}

impl Writer {
    /// Adds the frames of planes `[3, n, S, S]`; `None` when the disk does not take them. Blocks.
    pub(super) fn add(mut self, planes: &[f32]) -> Option<Self> {
        let added = self.file.as_mut()?.add(planes);
        match added {
            Ok(()) => Some(self),
            Err(error) => {
                self.user.decoded.fail(&error);
                None
            }
        }
    }

    /// Makes the file one that is read. Returns whether it is. Blocks.
    pub(super) fn finish(mut self) -> bool {
        let decoded = Arc::clone(&self.user.decoded);
        let Some(file) = self.file.take() else {
            return false;
        };
        let finished = file.finish(&decoded.path(&self.name, self.video));
        if let Err(error) = finished {
            decoded.fail(&error);
            return false;
        }
        if let Some(held) = decoded.lock().files.get_mut(&self.name) {
            held.is_whole = true;
        }
        self.is_finished = true;
        decoded.metrics.decoded_used(DecodedUse::Filled);
        true
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if !self.is_finished {
            let decoded = &self.user.decoded;
            let mut state = decoded.lock();
            state.remove(&self.name);
            decoded.metrics.decoded_bytes(state.bytes);
        }
    }
}

#[cfg(test)]
mod tests;
