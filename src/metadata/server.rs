//! Address of a PostgreSQL server with the records, and how its schema stands to the release.
//!
//! Invariant: the password is in no message, no log and no dump of the configuration: it is in a file of its own.

use std::path::PathBuf;
use std::time::Duration;

/// How long the connection on which changes are heard is usually silent before it is asked.
const HINT_SILENCE: Duration = Duration::from_secs(30);

/// Address of the server and how it is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerConfig {
    url: String,
    /// URL past the pooler that `url` leads through, if it does.
    direct: Option<String>,
    /// File with the password, which is read again from time to time.
    pub password_file: Option<PathBuf>,
    /// Most connections that are open at a time.
    pub connections: u32,
    /// Longest time that a call waits for a connection.
    pub connect_timeout: Duration,
    /// Longest time that a statement runs.
    pub statement_timeout: Duration,
    /// Longest time that the start waits for the server.
    pub start_timeout: Duration,
    /// Whether the start brings the schema up to date; otherwise it refuses one that is too old.
    pub migrate: bool,
    /// Whether this process tells others of changes and hears of theirs; otherwise it finds them by asking.
    pub hints: bool,
    /// How long the connection on which changes are heard may be silent before it is asked whether it is still there.
    pub hint_silence: Duration,
}

/// Reason why a URL is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// The URL does not begin like a database's.
    #[error("expected postgres://user@host:port/database")]
    Scheme,
    /// The URL has a password in it.
    #[error("a password belongs into a file, database_password_file, not into the URL")]
    Password,
}

impl ServerConfig {
    /// A server with the usual limits. The URL may have `sslmode`, `sslrootcert`, `sslcert` and `sslkey` as its parameters, and `host` for the folder of a
    /// socket.
    ///
    /// # Errors
    /// When the URL is none of a PostgreSQL database, or has a password in it.
    pub fn at(url: &str) -> Result<Self, UrlError> {
        check(url)?;
        Ok(Self {
            url: url.to_owned(),
            direct: None,
            password_file: None,
            connections: 10,
            connect_timeout: Duration::from_secs(3),
            statement_timeout: Duration::from_secs(30),
            start_timeout: Duration::from_secs(300),
            migrate: true,
            hints: true,
            hint_silence: HINT_SILENCE,
        })
    }

    /// Returns the server's URL.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Says that the URL leads through a pooler, which gives each transaction another connection, and by which URL the same database is reached directly.
    ///
    /// # Errors
    /// As [`Self::at`].
    pub fn through_pooler(&mut self, direct: &str) -> Result<(), UrlError> {
        check(direct)?;
        self.direct = Some(direct.to_owned());
        Ok(())
    }

    /// Returns whether the URL leads through a pooler: nothing that a session keeps outlives a transaction.
    pub fn is_pooled(&self) -> bool {
        self.direct.is_some()
    }

    /// Returns how the same database is reached without a pooler.
    #[must_use]
    pub fn past_pooler(&self) -> Self {
        let url = self.direct.as_ref().unwrap_or(&self.url);
        Self {
            url: url.clone(),
            direct: None,
            ..self.clone()
        }
    }
}

/// Refuses a URL of something else than a PostgreSQL database, and one with a password in it.
fn check(url: &str) -> Result<(), UrlError> {
    let rest = url
        .strip_prefix("postgres://")
        .or_else(|| url.strip_prefix("postgresql://"))
        .ok_or(UrlError::Scheme)?;
    let (authority, parameters) = rest.split_once(['/', '?']).unwrap_or((rest, ""));
    let user = authority.rsplit_once('@').map_or("", |(user, _)| user);
    match user.contains(':') || parameters.contains("password=") {
        true => Err(UrlError::Password),
        false => Ok(()),
    }
}

/// State of a database's schema compared with the release.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SchemaState {
    /// Number of the schema; 0 when there is none.
    pub found: i64,
    /// Number of the schema that the release brings.
    pub wanted: i64,
    /// Oldest schema number that a release has to bring to run on this schema.
    pub min_release: i64,
}

impl SchemaState {
    /// Whether the release can run on the schema.
    pub fn fits(self) -> bool {
        self.found >= self.wanted && self.min_release <= self.wanted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_has_no_password() {
        for (url, expected) in [
            ("postgres://me@db:5432/frameshift", None),
            ("postgresql:///frameshift?host=/run/postgresql", None),
            ("postgres://db/frameshift?sslmode=verify-full", None),
            ("mysql://me@db/frameshift", Some(UrlError::Scheme)),
            ("", Some(UrlError::Scheme)),
            (
                "postgres://me:secret@db/frameshift",
                Some(UrlError::Password),
            ),
            (
                "postgres://me@db/x?password=secret",
                Some(UrlError::Password),
            ),
        ] {
            assert_eq!(ServerConfig::at(url).err(), expected, "{url}");
            let mut pooled = ServerConfig::at("postgres://me@pooler/frameshift").unwrap();
            assert_eq!(pooled.through_pooler(url).err(), expected, "{url}");
        }
    }

    #[test]
    fn past_a_pooler_only_the_address_is_another() {
        let mut config = ServerConfig::at("postgres://me@pooler/frameshift").unwrap();
        config.connections = 4;
        assert_eq!(config.past_pooler(), config);
        config
            .through_pooler("postgres://me@db/frameshift")
            .unwrap();
        let direct = config.past_pooler();
        assert!(config.is_pooled() && !direct.is_pooled());
        assert_eq!(
            (direct.url(), direct.connections),
            ("postgres://me@db/frameshift", 4)
        );
    }

    #[test]
    fn a_release_runs_on_its_own_schema_and_on_newer_ones_that_allow_it() {
        let state = |found, min_release| SchemaState {
            found,
            wanted: 20,
            min_release,
        };
        assert!(state(20, 0).fits() && state(25, 20).fits());
        assert!(!state(19, 0).fits() && !state(0, 0).fits() && !state(25, 21).fits());
    }
}
