//! What a failure of the database library means to callers.
//!
//! Invariant: what says nothing of the request, only of the disk, the locks or the moment, is temporary; everything else stays wrong.

use std::io::ErrorKind;

#[allow(unused_imports, reason = "SqliteError's code is a method of it")]
use sqlx::error::DatabaseError as _;

use super::super::Error;

/// SQLite's result code for a full disk, and for `max_page_count`.
const FULL: u32 = 13;
/// SQLite's result code for a damaged database.
pub(super) const CORRUPT: u32 = 11;
/// SQLite's result code for a database that this process cannot write.
pub(super) const READ_ONLY: u32 = 8;
/// SQLite's extended result code of a trigger that refuses; the only ones are those of erased tenants.
const TRIGGER: u32 = 1811;
/// SQLite's result codes that say nothing of the statement: BUSY, LOCKED, NOMEM, READONLY, IOERR, CANTOPEN and PROTOCOL (a lock that could not be
/// had). A full quota is IOERR to SQLite.
const PASSING: [u32; 7] = [5, 6, 7, READ_ONLY, 10, 14, 15];

/// PostgreSQL's code with which a trigger refuses what would be of an erased tenant.
#[cfg(feature = "postgres")]
const ERASED: &str = "FE001";
/// PostgreSQL's code for a full disk.
#[cfg(feature = "postgres")]
const DISK_FULL: &str = "53100";
/// PostgreSQL's codes that say nothing of the statement, by their beginnings: the connection (08), credentials that are being changed (28), resources
/// (53), a database that is closed for maintenance (55000), a server that starts or ends (57P), a standby (25006), a transaction that waited too long
/// (25P03), one that lost against another (40001, 40P01), a lock that could not be had in time (55P03), a statement that took too long (57014), a prepared
/// statement whose columns a migration has changed (0A000), which another connection or a later one prepares anew.
#[cfg(feature = "postgres")]
const PASSING_STATES: [&str; 12] = [
    "08", "28", "53", "55000", "57P", "25006", "25P03", "40001", "40P01", "55P03", "57014", "0A000",
];

/// The error of a file that statements go through on their way.
pub(super) fn of_a_file(error: std::io::Error) -> Error {
    sqlx::Error::Io(error).into()
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        #[cfg(feature = "postgres")]
        if let Some(state) = state(&error) {
            return of_state(&state, error);
        }
        let code = primary_code(&error);
        if extended_code(&error) == Some(TRIGGER) {
            return Self::TenantErased;
        }
        let is_full = matches!(
            &error,
            sqlx::Error::Io(io)
                if matches!(io.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
        );
        let is_away = matches!(
            error,
            sqlx::Error::Io(_)
                | sqlx::Error::PoolTimedOut
                | sqlx::Error::PoolClosed
                | sqlx::Error::WorkerCrashed
                | sqlx::Error::Tls(_)
        );
        if is_full || code == Some(FULL) {
            Self::StorageFull(Box::new(error))
        } else if is_away || code.is_some_and(|code| PASSING.contains(&code)) {
            Self::Unavailable(Box::new(error))
        } else {
            Self::Backend(Box::new(error))
        }
    }
}

impl From<sqlx::migrate::MigrateError> for Error {
    fn from(error: sqlx::migrate::MigrateError) -> Self {
        use sqlx::migrate::MigrateError;
        if let MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) = error {
            return error.into();
        }
        Self::Backend(Box::new(error))
    }
}

/// PostgreSQL's SQLSTATE.
#[cfg(feature = "postgres")]
fn state(error: &sqlx::Error) -> Option<String> {
    let error = error.as_database_error()?;
    let error = error.try_downcast_ref::<sqlx::postgres::PgDatabaseError>()?;
    Some(error.code().to_owned())
}

/// What a SQLSTATE means.
#[cfg(feature = "postgres")]
fn of_state(state: &str, error: sqlx::Error) -> Error {
    let is_passing = PASSING_STATES
        .iter()
        .any(|passing| state.starts_with(passing));
    match is_passing {
        _ if state == ERASED => Error::TenantErased,
        _ if state == DISK_FULL => Error::StorageFull(Box::new(error)),
        true => Error::Unavailable(Box::new(error)),
        false => Error::Backend(Box::new(error)),
    }
}

/// SQLite's result code without the bits that extend it.
pub(super) fn primary_code(error: &sqlx::Error) -> Option<u32> {
    Some(extended_code(error)? & 0xff)
}

fn extended_code(error: &sqlx::Error) -> Option<u32> {
    let error = error.as_database_error()?;
    let code = error
        .try_downcast_ref::<sqlx::sqlite::SqliteError>()?
        .code()?;
    code.parse().ok()
}

#[cfg(all(test, feature = "postgres"))]
mod tests {
    use super::*;

    #[test]
    fn what_passes_is_told_from_what_is_wrong() {
        let of = |state| of_state(state, sqlx::Error::RowNotFound);
        for state in [
            "08006", "57P01", "57P03", "53300", "25006", "40001", "40P01", "55P03", "0A000",
        ] {
            assert!(matches!(of(state), Error::Unavailable(_)), "{state}");
        }
        assert!(matches!(of("53100"), Error::StorageFull(_)));
        for state in ["23505", "42P01", "22003", "25P02", "42601"] {
            assert!(matches!(of(state), Error::Backend(_)), "{state}");
        }
    }
}
