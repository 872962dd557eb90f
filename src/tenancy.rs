//! Who calls, and for which tenant. With authentication off, callers say it themselves.
//!
//! Invariant: a request has exactly one tenant before any handler sees it.

use crate::ids::{self, TenantId};

/// Header that names the tenant while authentication is off.
pub const HEADER: &str = "x-frameshift-tenant";

/// Why a request has no tenant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The header does not hold a valid tenant name.
    #[error("{HEADER}: {0}")]
    Malformed(#[from] ids::Error),
    /// The header is there more than once.
    #[error("{HEADER}: given {0} times, expected once")]
    Repeated(usize),
}

/// The caller of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// Tenant whose resources the caller sees.
    pub tenant: TenantId,
}

/// Identifies the caller of a request by the values of its [`HEADER`]; `default` when there is none.
///
/// # Errors
/// When the header is malformed or repeated: guessing could show one tenant another's resources.
pub fn identify<'a>(values: impl IntoIterator<Item = &'a [u8]>) -> Result<Caller, Error> {
    let values: Vec<&[u8]> = values.into_iter().collect();
    match values.as_slice() {
        [] => Ok(Caller {
            tenant: TenantId::anonymous(),
        }),
        [value] => Ok(Caller {
            tenant: String::from_utf8_lossy(value).parse()?,
        }),
        more => Err(Error::Repeated(more.len())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_without_the_header_is_the_default_tenant() {
        let caller = identify([]).unwrap();
        assert_eq!(caller.tenant.as_str(), "default");
    }

    #[test]
    fn a_malformed_or_repeated_tenant_is_refused_rather_than_guessed() {
        assert_eq!(
            identify([b"acme".as_slice()]).unwrap().tenant.as_str(),
            "acme"
        );
        for bad in [&b""[..], b"a/b", b"ACME", b"a b", b"\xff", b"../x"] {
            assert!(identify([bad]).is_err(), "{bad:?}");
        }
        let twice = identify([b"a".as_slice(), b"b".as_slice()]);
        assert_eq!(twice, Err(Error::Repeated(2)));
    }
}
