//! Chooses the version of a task that answers a request: the one that is named, the serving one, or the request's own of a split.
//!
//! Invariant: a version that is known to be unable to serve gets no requests of a split; a request that finds out is answered by another version.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use super::{Asked, Caller, Choice, Error, Role, Serving, Video};
use crate::blocking::blocking;
use crate::engine;
use crate::ids::{AdapterVersion, TaskId, TenantId, VersionRef};
use crate::registry::{Key, Served};
use crate::video::Input;

/// Stretches of a video's bytes that stand for its content: as good as all of them to tell videos apart, and read in no time.
const STRETCHES: u64 = 16;
/// Bytes of a stretch.
const STRETCH: usize = 4096;

impl Serving {
    /// Chooses a version for a choice that names none; of a split, by the request's key and among those that can serve but the refused ones.
    pub(super) async fn chosen(
        &self,
        tenant: &TenantId,
        task: &TaskId,
        key: Option<Key>,
        refused: &[AdapterVersion],
    ) -> Result<Asked, Error> {
        let served = self.parts.registry.served(tenant, task).await?;
        let split = served.split.as_deref().zip(key);
        let Some((split, key)) = split else {
            return self.main(tenant, task, &served).await;
        };
        let (key, mut refused) = (key.within(tenant, task), refused.to_vec());
        let own = |version| VersionRef {
            tenant: tenant.clone(),
            task: task.clone(),
            version,
        };
        loop {
            let engine = &self.parts.engine;
            let can = |version: AdapterVersion| {
                !refused.contains(&version) && engine.refusal(&own(version)).is_none()
            };
            let Some(version) = split.choose(key, can) else {
                // None can: the main version says why.
                return self.main(tenant, task, &served).await;
            };
            let role = match Some(version) == served.serving {
                true => Role::Main(served.standing),
                false => Role::Member,
            };
            match self.known(own(version), role).await {
                Ok(mut asked) => {
                    asked.watching = split.watching(key).map(own).collect();
                    asked.is_shared = true;
                    return Ok(asked);
                }
                Err(Error::Backbone { .. }) => refused.push(version),
                Err(error) => return Err(error),
            }
        }
    }

    /// The task's serving version.
    async fn main(
        &self,
        tenant: &TenantId,
        task: &TaskId,
        served: &Served,
    ) -> Result<Asked, Error> {
        let version = served.serving.ok_or_else(|| Error::NoServingVersion {
            task: task.clone(),
            is_moving: served.is_moving,
        })?;
        let version = VersionRef {
            tenant: tenant.clone(),
            task: task.clone(),
            version,
        };
        match self.swapping(&version) {
            // Nothing is to be recorded about a version that serves no longer.
            Some(before) => self.known(before, Role::Main(None)).await,
            None => self.known(version, Role::Main(served.standing)).await,
        }
    }

    /// The version that answers in place of a serving one that another process has just proved, until this one has loaded it.
    fn swapping(&self, version: &VersionRef) -> Option<VersionRef> {
        let before = self.parts.registry.before(&version.tenant, &version.task)?;
        let before = VersionRef {
            version: before,
            ..version.clone()
        };
        let engine = &self.parts.engine;
        if !engine.is_resident(&before) || engine.is_resident(version) {
            return None;
        }
        // Usually it is being loaded by now. Nobody waits for it as long as the other one answers.
        engine.prefetch_ahead(version);
        Some(before)
    }

    /// The request's key, if a choice needs one.
    pub(super) async fn key(
        &self,
        caller: &Caller,
        choices: &[Choice],
        video: &Video,
    ) -> Option<Key> {
        let unnamed = choices.iter().filter(|choice| choice.version.is_none());
        let mut is_split = false;
        for choice in unnamed {
            let served = self.parts.registry.served(&caller.tenant, &choice.task);
            // An error is the choice's own, later.
            is_split |= served.await.is_ok_and(|served| served.split.is_some());
        }
        match (is_split, caller.key) {
            (true, None) => Some(of_video(video).await),
            (true, given) => given,
            (false, _) => None,
        }
    }

    /// Chooses again for choices whose version turned out to be unable to serve: the place of each, and the version that answers instead.
    pub(super) async fn others(
        &self,
        caller: &Caller,
        key: Option<Key>,
        failed: &[(usize, Vec<VersionRef>)],
    ) -> Vec<(usize, Asked)> {
        let mut others = Vec::new();
        for (place, refused) in failed {
            let Some(last) = refused.last() else {
                continue;
            };
            let numbers: Vec<_> = refused.iter().map(|own| own.version).collect();
            let other = self.chosen(&caller.tenant, &last.task, key, &numbers).await;
            let other = other.ok();
            let other = other.filter(|other| !refused.contains(&other.version));
            others.extend(other.map(|other| (*place, other)));
        }
        others
    }
}

/// Whether an answer shows that its version cannot serve.
pub(super) fn cannot_serve<T>(answer: &Result<T, Error>) -> bool {
    use engine::Error::{Damaged, Quarantined};
    matches!(
        answer,
        Err(Error::Engine(Damaged { .. } | Quarantined { .. }))
    )
}

/// The key of a video whose request has none of its own: that of its id, or of its content.
async fn of_video(video: &Video) -> Key {
    match video {
        Video::Stored(id) => Key::of("video", &[id.to_string().as_bytes()]),
        Video::Given(Input::Bytes(bytes)) => {
            let read = |at: u64| {
                let from = usize::try_from(at).unwrap_or(usize::MAX).min(bytes.len());
                let to = (from + STRETCH).min(bytes.len());
                bytes[from..to].to_vec()
            };
            of_content(bytes.len() as u64, read)
        }
        Video::Given(Input::File(file)) => {
            let file = Arc::clone(file);
            let key = blocking(move || of_file(&file)).await;
            // A file that cannot be read fails when it is decoded.
            key.unwrap_or(Key::of("content", &[]))
        }
    }
}

fn of_file(file: &File) -> Key {
    let length = file.metadata().map_or(0, |own| own.len());
    of_content(length, |at| {
        let mut stretch = vec![0; STRETCH];
        let read = file.read_at(&mut stretch, at).unwrap_or(0);
        stretch.truncate(read);
        stretch
    })
}

/// The key of content of this length, read in stretches that are spread over it.
fn of_content(length: u64, read: impl Fn(u64) -> Vec<u8>) -> Key {
    let last = length.saturating_sub(STRETCH as u64);
    let starts = (0..STRETCHES).map(|part| last * part / (STRETCHES - 1));
    let mut starts: Vec<u64> = starts.collect();
    starts.dedup();
    let stretches: Vec<Vec<u8>> = starts.into_iter().map(read).collect();
    let length = length.to_le_bytes();
    let mut parts: Vec<&[u8]> = vec![&length];
    parts.extend(stretches.iter().map(Vec::as_slice));
    Key::of("content", &parts)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[tokio::test]
    async fn content_has_one_key_in_memory_and_in_a_file_and_another_when_it_differs() {
        let bytes: Vec<u8> = (0..200_000u32).map(|i| (i % 251) as u8).collect();
        for length in [0, 1, STRETCH - 1, STRETCH + 1, bytes.len()] {
            let own = &bytes[..length];
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(own).unwrap();
            let of_file = of_video(&Video::Given(Input::File(Arc::new(file)))).await;
            let given = Video::Given(Input::Bytes(own.to_vec().into()));
            assert_eq!(of_video(&given).await, of_file, "{length}");
        }
        let given = |bytes: &[u8]| Video::Given(Input::Bytes(bytes.to_vec().into()));
        let key = of_video(&given(&bytes)).await;
        let mut other = bytes.clone();
        other[199_999] ^= 1;
        assert_ne!(of_video(&given(&other)).await, key, "another end");
        assert_ne!(
            of_video(&given(&bytes[..199_999])).await,
            key,
            "another length"
        );
    }
}
