//! Layout of the keys; no other file forms keys.
//!
//! Invariant: a key begins with its tenant, and two different objects never share a key.

use std::fmt;

use object_store::path::Path;

use super::Error;
use crate::ids::{AdapterVersion, JobId, TaskId, TenantId, UploadId, VideoId};
use crate::spec::Digest;

/// Key of a blob.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Path);

impl Key {
    /// Parses a key from a record.
    ///
    /// # Errors
    /// When the text is not a key.
    pub fn parse(text: &str) -> Result<Self, Error> {
        Path::parse(text)
            .ok()
            .map(Self)
            .filter(|key| key.name().is_some())
            .ok_or_else(|| Error::Key { text: text.into() })
    }

    /// Returns the text of the key.
    pub fn as_str(&self) -> &str {
        self.0.as_ref()
    }

    /// Returns the tenant and the kind of blob that the key names; `None` for keys that this program does not write.
    pub fn name(&self) -> Option<(TenantId, Name)> {
        let parts: Vec<&str> = self.as_str().split('/').collect();
        let (tenant, rest) = parts.split_first()?;
        let name = match *rest {
            ["videos", video] => Name::Video(video.parse().ok()?),
            ["uploads", upload, part] => Name::Part(upload.parse().ok()?, part.parse().ok()?),
            ["tasks", task, "versions", version, file] => Name::Version(
                task.parse().ok()?,
                version.parse().ok()?,
                file.strip_suffix(".safetensors")?.parse().ok()?,
            ),
            ["jobs", job, epoch, _] => Name::Job(job.parse().ok()?, epoch.parse().ok()?),
            ["snapshots", digest] => Name::Snapshot(digest.parse().ok()?),
            _ => return None,
        };
        Some((tenant.parse().ok()?, name))
    }

    pub(super) fn from_path(path: Path) -> Self {
        Self(path)
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Kind of blob that a key names, with its ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Name {
    /// The file of a video.
    Video(VideoId),
    /// A part of an upload, by its number.
    Part(UploadId, u32),
    /// The weights of an adapter version, with their sha256.
    Version(TaskId, AdapterVersion, Digest),
    /// A file that a job wrote under a claim, with the claim's epoch.
    Job(JobId, u64),
    /// The examples of a snapshot, by its digest.
    Snapshot(Digest),
}

/// Returns the key `_store`; no tenant's name begins with `_`.
pub(super) fn identity() -> Key {
    Key(Path::from("_store"))
}

/// Returns the key `_held`, whose blob exists while the collector must not delete anything.
pub(super) fn held() -> Key {
    Key(Path::from("_held"))
}

/// Returns the key `<tenant>/videos/<video>`.
pub fn video(tenant: &TenantId, video: VideoId) -> Key {
    Key(Path::from_iter([
        tenant.as_str(),
        "videos",
        &video.to_string(),
    ]))
}

/// Returns the key `<tenant>/uploads/<upload>/<number>`.
pub fn part(tenant: &TenantId, upload: UploadId, number: u32) -> Key {
    Key(Path::from_iter([
        tenant.as_str(),
        "uploads",
        &upload.to_string(),
        &number.to_string(),
    ]))
}

/// Returns the key `<tenant>/tasks/<task>/versions/<n>/<sha256>.safetensors`.
pub fn version(tenant: &TenantId, task: &TaskId, version: AdapterVersion, sha256: Digest) -> Key {
    Key(Path::from_iter([
        tenant.as_str(),
        "tasks",
        task.as_str(),
        "versions",
        &version.to_string(),
        &format!("{sha256}.safetensors"),
    ]))
}

/// Returns the key `<tenant>/jobs/<job>/<epoch>/checkpoint-<step>.safetensors`. It contains the claim's epoch, so that a worker that lost its claim
/// cannot overwrite what its successor wrote.
pub fn checkpoint(tenant: &TenantId, job: JobId, epoch: u64, step: u64) -> Key {
    Key(Path::from_iter([
        tenant.as_str(),
        "jobs",
        &job.to_string(),
        &epoch.to_string(),
        &format!("checkpoint-{step}.safetensors"),
    ]))
}

/// Returns the key `<tenant>/snapshots/<digest>`.
pub fn snapshot(tenant: &TenantId, digest: Digest) -> Key {
    Key(Path::from_iter([
        tenant.as_str(),
        "snapshots",
        &digest.to_string(),
    ]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_reads_back_as_what_it_names() {
        let tenant = TenantId::anonymous();
        let (clip, upload, job) = (VideoId::generate(), UploadId::generate(), JobId::generate());
        let task: TaskId = "a.b-c".parse().expect("a task");
        let digest = Digest([7; 32]);
        let n = AdapterVersion::FIRST;
        for (key, name) in [
            (video(&tenant, clip), Name::Video(clip)),
            (part(&tenant, upload, 3), Name::Part(upload, 3)),
            (
                version(&tenant, &task, n, digest),
                Name::Version(task.clone(), n, digest),
            ),
            (checkpoint(&tenant, job, 2, 40), Name::Job(job, 2)),
            (snapshot(&tenant, digest), Name::Snapshot(digest)),
        ] {
            assert_eq!(key.name(), Some((tenant.clone(), name)), "{key}");
            assert_eq!(Key::parse(key.as_str()).ok(), Some(key));
        }
    }

    #[test]
    fn what_is_no_key_is_refused() {
        for bad in ["", "a", "a/videos/b", "../x", "a/../b", "a/jobs/x/1/y"] {
            assert!(Key::parse(bad).is_err(), "{bad}");
        }
    }
}
