//! Identifiers as validated newtypes: a value of one of these types is well formed, so no other module validates it again.
//!
//! Invariant: an id never holds `/`, control characters or upper case, so it can be used in a key or a resource name as it is.

use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Longest name that a caller may choose, in bytes.
pub const MAX_NAME: usize = 63;

/// Reason why a text is not an identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The name is empty or too long, or has a character that is not allowed.
    #[error(
        "{kind} {text:?} is not 1 to 63 characters of a-z, 0-9, '-', '_', '.', beginning with a letter or digit"
    )]
    Name {
        /// Kind of identifier that was expected.
        kind: &'static str,
        /// The rejected text, truncated to 80 characters.
        text: String,
    },
    /// The text is not a UUID; in names of resources, one with hyphens.
    #[error("{kind} {text:?} is not a uuid")]
    Uuid {
        /// Kind of identifier that was expected.
        kind: &'static str,
        /// The rejected text, truncated to 80 characters.
        text: String,
    },
    /// The text is not a whole number from 1 up.
    #[error("version {text:?} is not a number from 1")]
    Version {
        /// The rejected text, truncated to 80 characters.
        text: String,
    },
}

fn shortened(text: &str) -> String {
    text.chars().take(80).collect()
}

fn is_name(text: &str) -> bool {
    let head = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    !text.is_empty()
        && text.len() <= MAX_NAME
        && text.bytes().next().is_some_and(head)
        && text
            .bytes()
            .all(|byte| head(byte) || matches!(byte, b'-' | b'_' | b'.'))
}

macro_rules! name_id {
    ($(#[$doc:meta])* $type:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $type(Arc<str>);

        impl $type {
            /// Returns the text of the identifier.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $type {
            type Err = Error;

            fn from_str(text: &str) -> Result<Self, Error> {
                if is_name(text) {
                    Ok(Self(text.into()))
                } else {
                    Err(Error::Name { kind: $kind, text: shortened(text) })
                }
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

/// Whether a text is a UUID as resource names have it. Some languages write UUIDs in upper case; they are the same ids.
fn is_hyphenated(uuid: Uuid, text: &str) -> bool {
    uuid.hyphenated().to_string().eq_ignore_ascii_case(text)
}

/// Any form of a UUID: languages differ in which they write by default (`uuid4().hex`, `{…}`, `urn:uuid:…`).
fn any_form(_: Uuid, _: &str) -> bool {
    true
}

macro_rules! uuid_id {
    ($(#[$doc:meta])* $type:ident, $kind:literal, $has_form:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $type(Uuid);

        impl $type {
            /// Generates a new id (UUID version 7). Ids that one process generates sort by the time of the call.
            pub fn generate() -> Self {
                Self(Uuid::now_v7())
            }

            /// Returns the id as a UUID.
            pub fn uuid(&self) -> Uuid {
                self.0
            }
        }

        impl From<Uuid> for $type {
            fn from(uuid: Uuid) -> Self {
                Self(uuid)
            }
        }

        impl FromStr for $type {
            type Err = Error;

            fn from_str(text: &str) -> Result<Self, Error> {
                match Uuid::try_parse(text) {
                    Ok(uuid) if $has_form(uuid, text) => Ok(Self(uuid)),
                    Ok(_) | Err(_) => Err(Error::Uuid { kind: $kind, text: shortened(text) }),
                }
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.hyphenated().fmt(f)
            }
        }
    };
}

name_id!(
    /// Id of the tenant that owns a resource.
    TenantId, "tenant"
);
name_id!(
    /// Name of a task within its tenant.
    TaskId, "task"
);
name_id!(
    /// Name of a data set within its tenant.
    DatasetId, "dataset"
);
name_id!(
    /// Public part of an API key, which names the key in listings and logs.
    KeyId, "key"
);
uuid_id!(
    /// Id of a stored video.
    VideoId, "video", is_hyphenated
);
uuid_id!(
    /// Id of a resumable upload.
    UploadId, "upload", is_hyphenated
);
uuid_id!(
    /// Id of a fine-tuning job.
    JobId, "job", is_hyphenated
);
uuid_id!(
    /// Id of a search over many jobs.
    SweepId, "sweep", is_hyphenated
);
uuid_id!(
    /// Id, chosen by the caller, that makes a create request idempotent.
    RequestId, "request_id", any_form
);

impl TenantId {
    /// Returns the tenant of a caller that names none while authentication is off: `default`.
    pub fn anonymous() -> Self {
        Self("default".into())
    }
}

/// Number of an adapter version within its task, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct AdapterVersion(NonZeroU32);

impl AdapterVersion {
    /// Number of a task's first version.
    pub const FIRST: Self = Self(NonZeroU32::MIN);

    /// Returns the version with a number; `None` for 0.
    pub fn new(number: u32) -> Option<Self> {
        NonZeroU32::new(number).map(Self)
    }

    /// Returns the version's number.
    pub fn get(self) -> u32 {
        self.0.get()
    }
}

impl FromStr for AdapterVersion {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match text.parse() {
            Ok(number) if Self(number).to_string() == text => Ok(Self(number)),
            Ok(_) | Err(_) => Err(Error::Version {
                text: shortened(text),
            }),
        }
    }
}

impl fmt::Display for AdapterVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Full name of an adapter version: its tenant, task and number.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VersionRef {
    /// Tenant that owns the version.
    pub tenant: TenantId,
    /// Task of the version.
    pub task: TaskId,
    /// Number of the version within its task.
    pub version: AdapterVersion,
}

impl fmt::Display for VersionRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tasks/{}/versions/{}", self.task, self.version)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        for good in ["a", "0", "motion-4_dirs.v2", &"x".repeat(63)] {
            assert!(good.parse::<TaskId>().is_ok(), "{good}");
        }
        for bad in [
            "",
            "-a",
            ".a",
            "A",
            "a/b",
            "a b",
            "ä",
            "a\0",
            &"x".repeat(64),
        ] {
            assert!(bad.parse::<TaskId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn uuids_are_read_in_either_case_and_written_in_one() {
        let id = VideoId::generate();
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(id.to_string().to_uppercase().parse(), Ok(id));
        for bad in [
            id.uuid().simple().to_string(),
            id.to_string().to_uppercase() + "G",
            format!("{{{id}}}"),
        ] {
            assert!(bad.parse::<VideoId>().is_err(), "{bad}");
        }
        let request = RequestId::generate();
        for form in [
            request.to_string(),
            request.to_string().to_uppercase(),
            request.uuid().simple().to_string(),
            request.uuid().braced().to_string(),
            request.uuid().urn().to_string(),
        ] {
            assert_eq!(form.parse(), Ok(request), "{form}");
        }
        for bad in [
            "",
            "1",
            "not-a-uuid",
            "{8fb39745-852e-4971-8c5e-a9d670b49c14",
        ] {
            assert!(bad.parse::<RequestId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn versions_start_at_one() {
        assert_eq!("1".parse(), Ok(AdapterVersion::FIRST));
        for bad in ["0", "-1", "+1", "01", "", "4294967296"] {
            assert!(bad.parse::<AdapterVersion>().is_err(), "{bad}");
        }
    }
}
