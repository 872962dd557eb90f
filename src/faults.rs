//! Named points at which the process kills itself on request, so that tests of a real child process can interrupt it between any two writes.
//!
//! Invariant: nothing happens unless [`arm`] was called, and only `config` calls it, from a hidden setting. This is the only process-wide switch: a
//! crash point may be anywhere in the code, and it ends the whole process.

use std::str::FromStr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// Names of all crash points, in the order in which a video and a job pass them.
///
/// - `part-stored`: an upload's part is in the store, its row does not exist yet
/// - `blob-put`: a finished video is in the store, not probed yet
/// - `before-commit`, `after-commit`: before and after the transaction that makes the video visible; `after-commit` also for an imported version
/// - `upload-ended`: expired uploads are marked, their parts still exist
/// - `parts-removed`: the blobs of ended uploads are gone, the rows of their parts are not
/// - `orphan-discarded`: an orphan was moved to the trash
/// - `mid-step`: within a training step
/// - `checkpoint-written`: a checkpoint is in the store and its record is committed
/// - `publish`: a version's weights are in the store, the version is not visible yet
/// - `version-published`: the transaction that published a version is committed, the test split is not measured yet
/// - `alias-moved`: the transaction that moved a serving version is committed
/// - `snapshot-archived`: a snapshot's examples are in a blob, which is not on record yet
/// - `usage-flushed`: counts of usage are committed, their process does not know it yet
/// - `erasure-rows`: some rows of a tenant that is erased are gone
/// - `erasure-objects`: some of its objects are gone, they are not counted yet
/// - `erasure-ended`: the erasure is on record as ended
pub const POINTS: &[&str] = &[
    "part-stored",
    "blob-put",
    "before-commit",
    "after-commit",
    "upload-ended",
    "parts-removed",
    "orphan-discarded",
    "mid-step",
    "checkpoint-written",
    "publish",
    "version-published",
    "alias-moved",
    "snapshot-archived",
    "usage-flushed",
    "erasure-rows",
    "erasure-objects",
    "erasure-ended",
];

/// Error for a text that does not name a crash point.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("crash point {text:?} is not NAME or NAME:COUNT with NAME one of {}", POINTS.join(", "))]
pub struct Unknown {
    /// Text that was given.
    pub text: String,
}

/// Where to crash: at the `count`-th pass of a crash point. Written `NAME` or `NAME:COUNT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Crash {
    point: &'static str,
    count: u32,
}

impl FromStr for Crash {
    type Err = Unknown;

    fn from_str(text: &str) -> Result<Self, Unknown> {
        let unknown = || Unknown { text: text.into() };
        let (name, count) = match text.split_once(':') {
            Some((name, count)) => (name, count.parse().map_err(|_| unknown())?),
            None => (text, 1),
        };
        let point = POINTS.iter().find(|point| **point == name);
        match point {
            Some(point) if count > 0 => Ok(Self { point, count }),
            Some(_) | None => Err(unknown()),
        }
    }
}

static ARMED: OnceLock<Crash> = OnceLock::new();
static PASSES: AtomicU32 = AtomicU32::new(0);

/// Makes the process kill itself at a crash point; later calls have no effect.
pub fn arm(crash: Crash) {
    let _ = ARMED.set(crash);
}

/// Passes a crash point: kills the process when it is the armed pass, and returns at once otherwise.
pub fn point(name: &'static str) {
    debug_assert!(POINTS.contains(&name), "crash point {name} is not listed");
    let Some(crash) = ARMED.get() else { return };
    if crash.point != name || PASSES.fetch_add(1, Ordering::SeqCst) + 1 != crash.count {
        return;
    }
    let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    // The signal may take a moment to arrive; nothing may continue until then.
    loop {
        std::thread::park();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crash_names_a_point_and_a_pass() {
        assert_eq!(
            "publish:3".parse(),
            Ok(Crash {
                point: "publish",
                count: 3
            })
        );
        assert_eq!(
            "mid-step".parse(),
            Ok(Crash {
                point: "mid-step",
                count: 1
            })
        );
        for bad in ["", "nowhere", "publish:0", "publish:x", "publish:"] {
            assert!(bad.parse::<Crash>().is_err(), "{bad}");
        }
    }

    #[test]
    fn an_unarmed_point_is_passed() {
        for name in POINTS {
            point(name);
        }
    }
}
