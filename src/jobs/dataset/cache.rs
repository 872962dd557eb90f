//! Decoded training videos in memory, within a budget that all jobs share with the tokens of their frames. Jobs of one tenant that decode alike, as those of a sweep do, have one pool.
//!
//! Invariant: a video in a pool holds every frame, so that whatever frames an epoch draws are bit-equal to a fresh decode of them; room is taken
//! before the bytes are kept and given back when the last job that used the video ends, or when nothing is kept in it.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use crate::ids::{TenantId, VideoId};

/// Most frames of a video that is kept: longer ones cost more to decode whole than their few wanted frames.
const FRAMES: u32 = 64;
/// A video may take this part of the budget at most.
const SHARE: u64 = 32;

/// Whose videos a pool has, and how they are decoded.
type Key = (TenantId, String);

/// Room for decoded videos and kept tokens, shared by all jobs.
#[derive(Debug)]
pub(in crate::jobs) struct Budget {
    total: u64,
    taken: AtomicU64,
    /// Pools of jobs under way. Held for a look-up, never across an await.
    pools: Mutex<HashMap<Key, Weak<Pool>>>,
}

impl Budget {
    pub(in crate::jobs) fn new(total: u64) -> Self {
        Self {
            total,
            taken: AtomicU64::new(0),
            pools: Mutex::default(),
        }
    }

    /// A job's part in the pool of a tenant's videos that are decoded in this way: that of the jobs that have one, or an empty one.
    pub(super) fn member(self: &Arc<Self>, tenant: &TenantId, decoding: &str) -> Member {
        Member {
            pool: self.pool((tenant.clone(), decoding.to_owned())),
            used: Mutex::default(),
        }
    }

    fn pool(self: &Arc<Self>, key: Key) -> Arc<Pool> {
        let mut pools = lock(&self.pools);
        pools.retain(|_, pool| pool.strong_count() > 0);
        if let Some(pool) = pools.get(&key).and_then(Weak::upgrade) {
            return pool;
        }
        let pool = Arc::new(Pool {
            budget: Arc::clone(self),
            held: Mutex::default(),
        });
        pools.insert(key, Arc::downgrade(&pool));
        pool
    }

    /// Takes room; `false` when there is not as much.
    pub(super) fn take(&self, bytes: u64) -> bool {
        let mut taken = self.taken.load(Ordering::SeqCst);
        while let Some(sum) = taken.checked_add(bytes).filter(|sum| *sum <= self.total) {
            let (success, failure) = (Ordering::SeqCst, Ordering::SeqCst);
            match (self.taken).compare_exchange_weak(taken, sum, success, failure) {
                Ok(_) => return true,
                Err(now) => taken = now,
            }
        }
        false
    }

    /// Gives room back that was taken.
    pub(super) fn give_back(&self, bytes: u64) {
        self.taken.fetch_sub(bytes, Ordering::SeqCst);
    }
}

/// Decoded videos of the jobs of one tenant that decode alike.
#[derive(Debug)]
struct Pool {
    budget: Arc<Budget>,
    held: Mutex<HashMap<VideoId, Place>>,
}

/// Place of a video in a pool.
#[derive(Debug, Default)]
struct Place {
    /// Planes `[3, n, S, S]` of all n frames; `None` while a job decodes the video.
    planes: Option<Arc<[f32]>>,
    bytes: u64,
    /// Jobs under way that have used the video.
    users: u32,
}

/// One job's part in a pool: a video that it used goes with the last job that did.
#[derive(Debug)]
pub(super) struct Member {
    pool: Arc<Pool>,
    /// Locked after what the pool holds, or alone.
    used: Mutex<HashSet<VideoId>>,
}

/// Room that was taken for a video; given back unless it is filled.
#[derive(Debug)]
pub(super) struct Room<'a> {
    member: &'a Member,
    video: VideoId,
    bytes: u64,
    is_filled: bool,
}

impl Member {
    /// Whether the video is here; the job does not use it by asking.
    pub(super) fn has(&self, video: VideoId) -> bool {
        let held = lock(&self.pool.held);
        held.get(&video).is_some_and(|own| own.planes.is_some())
    }

    /// The planes of all frames, if they are here; they stay for as long as the job runs.
    pub(super) fn get(&self, video: VideoId) -> Option<Arc<[f32]>> {
        let mut held = lock(&self.pool.held);
        let own = held.get_mut(&video)?;
        let planes = own.planes.clone()?;
        own.users += u32::from(lock(&self.used).insert(video));
        Some(planes)
    }

    /// Takes room for a video of so many frames of `side`² pixels; `None` when it is too long, there is no room, or another job decodes it now.
    pub(super) fn reserve(&self, video: VideoId, frames: u32, side: usize) -> Option<Room<'_>> {
        let bytes = bytes(frames, side);
        let budget = &self.pool.budget;
        if frames > FRAMES || bytes > budget.total / SHARE {
            return None;
        }
        match lock(&self.pool.held).entry(video) {
            Entry::Occupied(_) => return None,
            Entry::Vacant(place) if budget.take(bytes) => place.insert(Place::default()),
            Entry::Vacant(_) => return None,
        };
        Some(Room {
            member: self,
            video,
            bytes,
            is_filled: false,
        })
    }
}

impl Room<'_> {
    /// Keeps the video for which the room was taken.
    pub(super) fn fill(mut self, planes: Arc<[f32]>) {
        let place = Place {
            planes: Some(planes),
            bytes: self.bytes,
            users: 1,
        };
        let mut held = lock(&self.member.pool.held);
        held.insert(self.video, place);
        lock(&self.member.used).insert(self.video);
        self.is_filled = true;
    }
}

impl Drop for Room<'_> {
    fn drop(&mut self) {
        if !self.is_filled {
            let pool = &self.member.pool;
            lock(&pool.held).remove(&self.video);
            pool.budget.give_back(self.bytes);
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let used = std::mem::take(&mut *lock(&self.used));
        let mut held = lock(&self.pool.held);
        let mut freed = 0;
        for video in used {
            if let Entry::Occupied(mut own) = held.entry(video) {
                own.get_mut().users -= 1;
                if own.get().users == 0 {
                    freed += own.remove().bytes;
                }
            }
        }
        self.pool.budget.give_back(freed);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Maps and sums; each is whole after every single operation.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn bytes(frames: u32, side: usize) -> u64 {
    u64::from(frames) * 3 * (side * side) as u64 * 4
}

/// The frames `indices` of planes `[3, n, S, S]`, as `[3, T, S, S]`; `None` when one is not there.
pub(super) fn select(planes: &[f32], indices: &[u32], side: usize) -> Option<Arc<[f32]>> {
    let frame = side * side;
    let channel = planes.len() / 3;
    let mut picked = Vec::with_capacity(3 * indices.len() * frame);
    for plane in planes.chunks_exact(channel.max(1)) {
        for index in indices {
            let start = usize::try_from(*index).ok()? * frame;
            picked.extend_from_slice(plane.get(start..start + frame)?);
        }
    }
    Some(picked.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenant(name: &str) -> TenantId {
        name.parse().expect("a tenant")
    }

    #[test]
    fn frames_are_picked_from_every_channel() {
        let planes: Vec<f32> = (0..3 * 4 * 4).map(|i| i as f32).collect();
        let picked = select(&planes, &[3, 1, 1], 2).expect("in range");
        let firsts: Vec<f32> = picked.chunks(4).map(|frame| frame[0]).collect();
        assert_eq!(firsts, [12.0, 4.0, 4.0, 28.0, 20.0, 20.0, 44.0, 36.0, 36.0]);
        assert!(select(&planes, &[4], 2).is_none());
    }

    #[test]
    fn the_budget_holds_over_jobs_and_comes_back() {
        let budget = Arc::new(Budget::new(64 * bytes(4, 8)));
        let pool = budget.member(&tenant("a"), "display");
        let kept = |pool: &Member, frames| {
            let room = pool.reserve(VideoId::generate(), frames, 8);
            room.map(|room| room.fill(Arc::default())).is_some()
        };
        assert_eq!((0..100).filter(|_| kept(&pool, 4)).count(), 64);
        let other = budget.member(&tenant("b"), "display");
        assert!(!kept(&other, 1));
        drop(pool);
        assert!(kept(&other, 1));
        assert!(!kept(&other, 65));
    }

    #[test]
    fn jobs_that_decode_alike_have_one_pool_within_a_tenant() {
        let budget = Arc::new(Budget::new(64 * bytes(4, 8)));
        let (first, second) = (tenant("a"), tenant("b"));
        let pool = budget.member(&first, "display");
        let video = VideoId::generate();
        let room = pool.reserve(video, 4, 8).expect("room");
        assert!(pool.get(video).is_none());
        assert!(
            pool.reserve(video, 4, 8).is_none(),
            "another job decodes it"
        );
        room.fill(vec![1.0].into());
        assert_eq!(budget.member(&first, "display").get(video), pool.get(video));
        assert!(pool.get(video).is_some());
        for (tenant, decoding) in [(&first, "stored"), (&second, "display")] {
            assert!(budget.member(tenant, decoding).get(video).is_none());
        }
        drop(pool);
        assert_eq!(budget.taken.load(Ordering::SeqCst), 0);
        assert!(budget.member(&first, "display").get(video).is_none());
        assert_eq!(
            lock(&budget.pools).len(),
            1,
            "pools that ended are forgotten"
        );
    }

    #[test]
    fn a_video_stays_for_as_long_as_a_job_that_used_it() {
        let budget = Arc::new(Budget::new(64 * bytes(4, 8)));
        let owner = tenant("a");
        let member = || budget.member(&owner, "display");
        let taken = || budget.taken.load(Ordering::SeqCst);
        let (first, second) = (member(), member());
        let [shared, own, later] = [(); 3].map(|()| VideoId::generate());
        let fill = |member: &Member, video| {
            let room = member.reserve(video, 4, 8).expect("room");
            room.fill(vec![1.0].into());
        };
        fill(&first, shared);
        fill(&first, own);
        fill(&second, later);
        assert!(second.get(shared).is_some() && second.get(shared).is_some());
        assert!(second.has(own) && !second.has(VideoId::generate()));
        drop(first);
        assert!(second.has(shared) && second.has(later));
        assert!(!second.has(own), "no job under way has used it");
        assert_eq!(taken(), 2 * bytes(4, 8));
        // The jobs of the tenant go on to overlap.
        let third = member();
        assert!(third.get(later).is_some());
        drop(second);
        assert!(third.has(later) && !third.has(shared));
        assert_eq!(taken(), bytes(4, 8));
        drop(third);
        assert_eq!(taken(), 0);
    }

    #[test]
    fn room_for_a_video_that_does_not_decode_comes_back() {
        let budget = Arc::new(Budget::new(64 * bytes(4, 8)));
        let pool = budget.member(&tenant("a"), "display");
        let video = VideoId::generate();
        drop(pool.reserve(video, 4, 8).expect("room"));
        assert_eq!(budget.taken.load(Ordering::SeqCst), 0);
        assert!(pool.reserve(video, 4, 8).is_some());
    }
}
