//! Callers: who calls, for which tenant, and what the caller may do. With authentication off, callers name their tenant themselves.
//!
//! Invariant: a request has exactly one caller before any handler sees it; what a credential is worth is decided in [`credentials`] alone.

pub mod admin;
mod attempts;
pub mod bootstrap;
mod cache;
mod calls;
pub mod credentials;
mod hash;
pub mod identities;
pub mod key;
mod meter;
mod oidc;
pub mod pages;
pub mod proxies;
mod rates;
mod refusals;
mod reload;
mod tenants;
pub mod tls;

use std::collections::BTreeSet;
use std::fmt;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::ids::{self, KeyId, TaskId, TenantId};
use crate::metadata::AtOnce;
use crate::spec::Scopes;

pub use admin::Admin;
pub use calls::{TooManyCalls, Underway};
pub use credentials::{Credentials, Presented, Proven, Refused};
pub use hash::{FileError, Hasher};
pub use identities::Identity;
pub use meter::Meter;
pub use oidc::Flaw;
#[cfg(any(fuzzing, test))]
pub use oidc::token::fuzz as fuzz_token;
pub use refusals::{Refusals, Source};
pub use tenants::{Denied, Forget, Tenants, WINDOW};

/// Header that names the tenant while authentication is off, or chooses among the caller's.
pub const HEADER: &str = "x-frameshift-tenant";

/// Ways in which callers prove who they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Method {
    /// API keys as bearer credentials.
    Keys,
    /// Tokens of OpenID Connect issuers as bearer credentials.
    Oidc,
    /// Certificates that clients show in the TLS handshake.
    Mtls,
}

impl Method {
    /// Every method.
    pub const ALL: [Self; 3] = [Self::Keys, Self::Oidc, Self::Mtls];

    /// The name of the method, as the configuration spells it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Keys => "keys",
            Self::Oidc => "oidc",
            Self::Mtls => "mtls",
        }
    }
}

/// How callers are identified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The accepted methods; none means that callers are anonymous.
    pub methods: BTreeSet<Method>,
    /// File with the key of the HMAC that hashes secrets; without it they are hashed with SHA-256.
    pub pepper_file: Option<PathBuf>,
    /// File with the first operator's key.
    pub bootstrap_file: Option<PathBuf>,
    /// Issuers of tokens and rules of subjects and certificates.
    pub identities: Option<identities::Config>,
    /// Credentials of one address that may be refused at once, before unknown ones from there are refused without a look; one more each second.
    pub attempts: NonZeroU32,
    /// Time for which a key is good without another look at the database.
    pub fresh: Duration,
    /// Time for which a key that was good stays so while the database is away.
    pub stale_limit: Duration,
    /// Time between two looks at the change feed.
    pub feed_poll: Duration,
    /// Limits of what a tenant without limits of its own has under way at once on this server.
    pub at_once: AtOnce,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            methods: BTreeSet::new(),
            pepper_file: None,
            bootstrap_file: None,
            identities: None,
            attempts: NonZeroU32::MIN.saturating_add(19),
            fresh: Duration::from_secs(60),
            stale_limit: Duration::from_secs(15 * 60),
            feed_poll: Duration::from_secs(2),
            at_once: AtOnce::default(),
        }
    }
}

/// Why a request has no tenant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The header does not hold a valid tenant name.
    #[error("{HEADER}: {0}")]
    Malformed(#[from] ids::Error),
    /// The header is there more than once.
    #[error("{HEADER}: given {0} times, expected once")]
    Repeated(usize),
    /// The header names a tenant that is not the caller's, whether it exists or not.
    #[error("{HEADER}: the caller has no access to this tenant")]
    Foreign,
    /// The caller has several tenants, and the header names none of them.
    #[error("{HEADER}: the caller has {0} tenants, expected the name of one")]
    Unchosen(usize),
}

/// Who calls: whose credential was accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Principal {
    /// Authentication is off.
    Anonymous,
    /// The holder of an API key.
    Key(KeyId),
    /// The subject of an issuer's token.
    Subject {
        /// URL of the issuer.
        issuer: Arc<str>,
        /// Subject, by the issuer's own names.
        subject: Arc<str>,
    },
    /// The holder of a certificate, by the certificate's SPIFFE id or DNS name.
    Certificate(Arc<str>),
    /// Somebody with access to the server's own files.
    Operator,
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anonymous => f.write_str("anonymous"),
            Self::Key(key) => write!(f, "keys/{key}"),
            Self::Subject { issuer, subject } => write!(f, "{issuer}#{subject}"),
            Self::Certificate(name) => write!(f, "certificates/{name}"),
            Self::Operator => f.write_str("operator"),
        }
    }
}

/// The caller of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// Who calls.
    pub principal: Principal,
    /// Tenant whose resources the caller sees; `None` for an operator, who sees no tenant's.
    pub tenant: Option<TenantId>,
    /// What the caller may do.
    pub scopes: Scopes,
    /// Tasks that the caller may classify with; `None` for all of the tenant's.
    pub tasks: Option<Arc<BTreeSet<TaskId>>>,
}

impl Caller {
    /// A caller who did not have to prove anything.
    pub fn anonymous(tenant: TenantId) -> Self {
        Self {
            principal: Principal::Anonymous,
            tenant: Some(tenant),
            scopes: Scopes::TENANT,
            tasks: None,
        }
    }

    /// Whether the caller may classify with a task.
    pub fn may_use(&self, task: &TaskId) -> bool {
        self.tasks.as_ref().is_none_or(|tasks| tasks.contains(task))
    }

    /// The same caller, if the request's [`HEADER`] is absent or names the caller's tenant.
    ///
    /// # Errors
    /// When the header is malformed, repeated, or names another tenant.
    pub fn within<'a>(self, values: impl IntoIterator<Item = &'a [u8]>) -> Result<Self, Error> {
        match named(values)? {
            Some(tenant) if self.tenant.as_ref() != Some(&tenant) => Err(Error::Foreign),
            Some(_) | None => Ok(self),
        }
    }
}

/// Identifies the caller of a request by the values of its [`HEADER`] while authentication is off; `default` when there is none.
///
/// # Errors
/// When the header is malformed or repeated: guessing could show one tenant another's resources.
pub fn identify<'a>(values: impl IntoIterator<Item = &'a [u8]>) -> Result<Caller, Error> {
    let tenant = named(values)?.unwrap_or_else(TenantId::anonymous);
    Ok(Caller::anonymous(tenant))
}

fn named<'a>(values: impl IntoIterator<Item = &'a [u8]>) -> Result<Option<TenantId>, Error> {
    let values: Vec<&[u8]> = values.into_iter().collect();
    match values.as_slice() {
        [] => Ok(None),
        [value] => Ok(Some(String::from_utf8_lossy(value).parse()?)),
        more => Err(Error::Repeated(more.len())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_without_the_header_is_the_default_tenant() {
        let caller = identify([]).unwrap();
        assert_eq!(caller.tenant, Some(TenantId::anonymous()));
    }

    #[test]
    fn a_malformed_or_repeated_tenant_is_refused_rather_than_guessed() {
        let acme: TenantId = "acme".parse().unwrap();
        assert_eq!(identify([b"acme".as_slice()]).unwrap().tenant, Some(acme));
        for bad in [&b""[..], b"a/b", b"ACME", b"a b", b"\xff", b"../x"] {
            assert!(identify([bad]).is_err(), "{bad:?}");
        }
        let twice = identify([b"a".as_slice(), b"b".as_slice()]);
        assert_eq!(twice, Err(Error::Repeated(2)));
    }

    #[test]
    fn a_proven_caller_keeps_to_its_own_tenant() {
        let caller = Caller {
            principal: Principal::Key("k".parse().unwrap()),
            ..Caller::anonymous("acme".parse().unwrap())
        };
        for own in [&[][..], &[b"acme".as_slice()]] {
            let same = caller.clone().within(own.iter().copied());
            assert_eq!(same.as_ref(), Ok(&caller));
        }
        let other = caller.clone().within([b"globex".as_slice()]);
        assert_eq!(other, Err(Error::Foreign));
        assert!(caller.clone().within([b"A".as_slice()]).is_err());
        let operator = Caller {
            tenant: None,
            ..caller
        };
        assert_eq!(operator.within([b"acme".as_slice()]), Err(Error::Foreign));
    }
}
