//! Identities that others vouch for: issuers of tokens and authorities of certificates, and what their subjects may do here.
//!
//! Invariant: what is in force was read from a file that was right as a whole; a file that cannot be used leaves what was before in force, and a new one
//! ends what was decided by the one before.

use std::collections::HashMap;
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sha2::{Digest as _, Sha256};

use super::Principal;
use super::credentials::Refused;
use super::oidc::{Issuer, Issuers, Timing};
use super::reload;
use crate::shutdown::Signal;
use crate::telemetry::metrics::Metrics;

pub(in crate::tenancy) mod file;
pub(in crate::tenancy) mod rules;

pub use rules::Identity;
use rules::Rule;

/// Time between two looks at the file and at the age of issuers' keys.
const POLL: Duration = Duration::from_secs(10);
/// Most names of certificates whose rules are remembered: some 300 bytes each.
const NAMES: usize = 20_000;

/// Where identities are described, and how their issuers are asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// TOML file with issuers and rules.
    pub path: PathBuf,
    /// Time for which an issuer's keys are used after they were fetched last.
    pub stale_limit: Duration,
    /// Time between two looks at the file.
    pub poll: Duration,
}

impl Config {
    /// The identities of a file, with issuers that may be away for an hour.
    pub fn new(path: PathBuf) -> Self {
        Self {
            path,
            stale_limit: Duration::from_secs(60 * 60),
            poll: POLL,
        }
    }
}

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// Path of the file.
        path: PathBuf,
        /// Error of the operating system.
        source: std::io::Error,
    },
    /// The file is not TOML, or has a field that does not exist.
    #[error("{}: {problem}", path.display())]
    Syntax {
        /// Path of the file.
        path: PathBuf,
        /// What is wrong, with the position.
        problem: String,
    },
    /// A value cannot be used.
    #[error("{}: {place}: {what}", path.display())]
    Value {
        /// Path of the file.
        path: PathBuf,
        /// Place of the value in the file.
        place: String,
        /// What is wrong with it.
        what: String,
    },
}

/// The identities in force. Clones share them.
#[derive(Debug, Clone)]
pub struct Identities(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    config: Config,
    metrics: Metrics,
    /// A plain mutex, because it is held to clone a pointer and never across an await.
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    current: Arc<Current>,
    /// Digest of the file that was looked at last, whether it could be used or not.
    seen: [u8; 32],
}

/// What one file says, and what was decided by it.
#[derive(Debug)]
struct Current {
    issuers: Issuers,
    certificates: Vec<Rule>,
    /// What names of certificates stand for.
    known: Mutex<HashMap<Arc<str>, Option<Arc<Identity>>>>,
}

impl Identities {
    /// Reads the file.
    ///
    /// # Errors
    /// When it cannot be read or used.
    pub fn load(config: Config, metrics: Metrics) -> Result<Self, Error> {
        let bytes = read(&config.path)?;
        let (issuers, certificates) = parse(&config.path, &bytes)?;
        let timing = Timing::with_stale_limit(config.stale_limit);
        let state = State {
            current: Arc::new(Current {
                issuers: Issuers::new(issuers, timing, metrics.clone()),
                certificates,
                known: Mutex::default(),
            }),
            seen: Sha256::digest(&bytes).into(),
        };
        Ok(Self(Arc::new(Inner {
            config,
            metrics,
            state: Mutex::new(state),
        })))
    }

    /// Looks at the file now. Returns whether it had changed and is in force.
    ///
    /// # Errors
    /// When it had changed and cannot be used; what was in force stays so.
    pub fn reload(&self) -> Result<bool, Error> {
        let path = &self.0.config.path;
        let bytes = read(path)?;
        let digest: [u8; 32] = Sha256::digest(&bytes).into();
        if self.state().seen == digest {
            return Ok(false);
        }
        // The change is noted before the file is tried, so that one that cannot be used is logged once.
        self.state().seen = digest;
        let (issuers, certificates) = parse(path, &bytes)?;
        let before = self.current();
        let current = Current {
            issuers: before.issuers.renewed(issuers),
            certificates,
            known: Mutex::default(),
        };
        self.state().current = Arc::new(current);
        Ok(true)
    }

    /// Whom a bearer's token stands for, when that is known without any work.
    pub(super) fn known_token(&self, token: &str) -> Option<Arc<Identity>> {
        self.current().issuers.known(token)
    }

    /// Whom a bearer's token stands for.
    pub(super) async fn of_token(&self, token: &str) -> Result<Arc<Identity>, Refused> {
        self.current().issuers.verify(token).await
    }

    /// Whom the name of a certificate stands for.
    pub(super) fn of_certificate(&self, name: &Arc<str>) -> Result<Arc<Identity>, Refused> {
        let current = self.current();
        if let Some(known) = current.known().get(name) {
            return known.clone().ok_or(Refused::Unmapped);
        }
        let identity = rules::standing(&current.certificates, name).map(|standing| {
            Arc::new(Identity {
                principal: Principal::Certificate(Arc::clone(name)),
                standing,
            })
        });
        let mut known = current.known();
        if known.len() >= NAMES {
            known.clear();
        }
        known.insert(Arc::clone(name), identity.clone());
        identity.ok_or(Refused::Unmapped)
    }

    /// Looks at the file and at the age of the issuers' keys from time to time until the drain.
    ///
    /// # Errors
    /// Never: a file that cannot be used is logged, and the one before stays in force.
    pub async fn watch(self, drain: Signal) -> Result<(), Infallible> {
        let this = self.clone();
        let look = move || this.reload();
        let told = |change: Result<(), Error>| {
            self.0.metrics.identities_reloaded(change.is_ok());
            match change {
                Ok(()) => tracing::info!("the new identities are in force"),
                Err(error) => {
                    tracing::warn!(%error, "the identities cannot be used; those before stay in force");
                }
            }
        };
        let is_unreadable = |error: &Error| matches!(error, Error::Read { .. });
        let refresh = || self.current().issuers.refresh();
        reload::watch(
            (self.0.config.poll, drain),
            refresh,
            look,
            is_unreadable,
            told,
        )
        .await;
        Ok(())
    }

    fn current(&self) -> Arc<Current> {
        Arc::clone(&self.state().current)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Fields are set one after another without a way to fail between them.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Current {
    fn known(&self) -> MutexGuard<'_, HashMap<Arc<str>, Option<Arc<Identity>>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    std::fs::read(path).map_err(|source| Error::Read {
        path: path.into(),
        source,
    })
}

fn parse(path: &Path, bytes: &[u8]) -> Result<(Vec<Issuer>, Vec<Rule>), Error> {
    let syntax = |problem: String| Error::Syntax {
        path: path.into(),
        problem,
    };
    let text = std::str::from_utf8(bytes).map_err(|error| syntax(error.to_string()))?;
    let file: file::File = toml::from_str(text).map_err(|error| syntax(error.to_string()))?;
    file.check().map_err(|problem| Error::Value {
        path: path.into(),
        place: problem.place,
        what: problem.what,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        file
    }

    const RULE: &str = "[[certificates]]\nname = \"spiffe://td/camera\"\ntenant = \"acme\"\n";

    #[test]
    fn a_new_file_ends_what_the_one_before_decided() {
        let file = written(&format!("{RULE}role = \"viewer\"\n"));
        let identities = Identities::load(Config::new(file.path().into()), Metrics::new()).unwrap();
        let camera: Arc<str> = "spiffe://td/camera".into();
        let scopes = || {
            let identity = identities.of_certificate(&camera)?;
            let caller = identity.choose(None).unwrap();
            Ok::<_, Refused>(caller.scopes.to_string())
        };
        assert_eq!(scopes().unwrap(), "read");
        assert!(!identities.reload().unwrap());
        std::fs::write(file.path(), format!("{RULE}role = \"device\"\n")).unwrap();
        assert!(identities.reload().unwrap());
        assert_eq!(scopes().unwrap(), "classify");
        std::fs::write(file.path(), "").unwrap();
        assert!(identities.reload().unwrap());
        assert!(matches!(scopes(), Err(Refused::Unmapped)));
    }

    #[test]
    fn a_file_that_cannot_be_used_leaves_the_one_before_in_force_and_is_told_of_once() {
        let file = written(&format!("{RULE}role = \"viewer\"\n"));
        let identities = Identities::load(Config::new(file.path().into()), Metrics::new()).unwrap();
        for (bad, expected) in [
            ("nonsense", "expected"),
            (RULE, "certificates[0]: needs either role"),
        ] {
            std::fs::write(file.path(), bad).unwrap();
            let error = identities.reload().unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
            assert!(!identities.reload().unwrap(), "the same file again");
            assert!(
                identities
                    .of_certificate(&"spiffe://td/camera".into())
                    .is_ok()
            );
        }
        file.close().unwrap();
        assert!(matches!(identities.reload(), Err(Error::Read { .. })));
    }

    /// The files of identities that README's commands write.
    fn examples() -> Vec<&'static str> {
        let readme = include_str!("../../README.md");
        let files = readme.split("cat > identities.toml <<'END'\n").skip(1);
        files
            .filter_map(|rest| rest.split_once("END\n").map(|(file, _)| file))
            .collect()
    }

    #[test]
    fn the_examples_of_readme_can_be_used() {
        let examples = examples();
        assert_eq!(examples.len(), 2);
        for example in &examples {
            let file = written(example);
            Identities::load(Config::new(file.path().into()), Metrics::new()).unwrap();
        }
        let file = written(examples[1]);
        let identities = Identities::load(Config::new(file.path().into()), Metrics::new()).unwrap();
        let name = "spiffe://example.org/ns/acme/sa/x";
        let identity = identities.of_certificate(&name.into()).unwrap();
        let caller = identity.choose(None).unwrap();
        let scopes = "classify read write train serve tenant-admin";
        assert_eq!(caller.scopes.to_string(), scopes);
    }

    #[test]
    fn names_of_strangers_take_bounded_memory() {
        let file = written(&format!("{RULE}role = \"viewer\"\n"));
        let identities = Identities::load(Config::new(file.path().into()), Metrics::new()).unwrap();
        for number in 0..2 * NAMES + 1 {
            let name: Arc<str> = format!("spiffe://td/{number}").into();
            assert!(identities.of_certificate(&name).is_err());
        }
        assert!(identities.current().known().len() <= NAMES);
    }
}
