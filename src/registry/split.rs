//! Which version of a task's split a request goes to, and which versions watch it: pure.
//!
//! Invariant: never awaits, reads a clock or does I/O. The same key goes to the same version for as long as the shares are the same, also after a restart
//! and in another process. When a share changes, or a version drops out, only the keys move that have to.

use sha2::{Digest as _, Sha256};

use crate::ids::{AdapterVersion, TaskId, TenantId};
use crate::metadata::{Proof, Share, TaskRecord, WHOLE};

/// What decides which version a request goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key(u64);

/// Versions that share a task's requests, and shadow versions of them; only such that can serve, by the records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Split {
    members: Box<[(AdapterVersion, u16)]>,
    shadows: Box<[(AdapterVersion, u16)]>,
}

/// What a key is asked, so that the answers do not depend on one another.
#[derive(Debug, Clone, Copy)]
enum Question {
    /// Which version answers.
    Answer,
    /// Whether a version watches.
    Watch,
}

impl Key {
    /// The key of what identifies a request: a text that its caller chose, or what it is about. The kind keeps the two apart.
    pub fn of(kind: &str, parts: &[&[u8]]) -> Self {
        let mut hash = Sha256::new();
        hash.update((kind.len() as u64).to_le_bytes());
        hash.update(kind);
        for part in parts {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        let digest: [u8; 32] = hash.finalize().into();
        let [a, b, c, d, e, f, g, h, ..] = digest;
        Self(u64::from_le_bytes([a, b, c, d, e, f, g, h]))
    }

    /// The key for a task: what one task decides says nothing of another's decision.
    #[must_use]
    pub fn within(self, tenant: &TenantId, task: &TaskId) -> Self {
        let own = self.0.to_le_bytes();
        Self::of(
            "task",
            &[&own, tenant.as_str().as_bytes(), task.as_str().as_bytes()],
        )
    }

    /// A number in (0, 1), evenly spread over keys, that is another for each version and question.
    fn draw(self, version: AdapterVersion, question: Question) -> f64 {
        let question = match question {
            Question::Answer => 0,
            Question::Watch => 1 << 32,
        };
        let salt = u64::from(version.get()) | question;
        let bits = mixed(self.0 ^ mixed(salt));
        ((bits >> 11) as f64 + 0.5) / (1u64 << 53) as f64
    }
}

/// The finaliser of SplitMix64: every bit of the value decides about every bit of the result.
fn mixed(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

impl Split {
    /// The split that is in force for a task; `None` when its serving version answers everything. It begins when its main version serves.
    pub(super) fn of(record: &TaskRecord) -> Option<Self> {
        let plan = record.split.as_ref()?;
        if record.serving != Some(plan.main) || record.desired != record.serving {
            return None;
        }
        let is_main_well = record.serving_error.is_none();
        let can_serve = |own: &&Share| match own.version == plan.main {
            true => is_main_well,
            false => own.proof == Proof::Ready,
        };
        let of = |shares: &[Share]| {
            let able = shares.iter().filter(can_serve);
            able.map(|own| (own.version, own.per_mille)).collect()
        };
        Some(Self {
            members: match plan.members.as_slice() {
                [] => Box::new([(plan.main, WHOLE)]),
                members => of(members),
            },
            shadows: of(&plan.shadows),
        })
    }

    /// The version that answers a key, of those that can: each gets keys in proportion to its share. `None` when none can.
    ///
    /// The choice is weighted rendezvous hashing: of independent exponential times with the shares as rates, the version with the first one is chosen. A
    /// version that leaves gives its own keys to the others, in proportion to their shares, and moves no other key.
    pub fn choose(&self, key: Key, can: impl Fn(AdapterVersion) -> bool) -> Option<AdapterVersion> {
        let able = self.members.iter().filter(|(version, _)| can(*version));
        let time = |&(version, share): &(AdapterVersion, u16)| {
            let time = -key.draw(version, Question::Answer).ln() / f64::from(share);
            (time, version)
        };
        let first = able.map(time).min_by(|(a, _), (b, _)| a.total_cmp(b));
        first.map(|(_, version)| version)
    }

    /// Shadow versions of a key's requests.
    pub fn watching(&self, key: Key) -> impl Iterator<Item = AdapterVersion> {
        let watches = move |&&(version, share): &&(AdapterVersion, u16)| {
            key.draw(version, Question::Watch) < f64::from(share) / f64::from(WHOLE)
        };
        let watching = self.shadows.iter().filter(watches);
        watching.map(|(version, _)| *version)
    }

    /// Whether some versions watch.
    pub fn is_watched(&self) -> bool {
        !self.shadows.is_empty()
    }
}

#[cfg(test)]
mod tests;
