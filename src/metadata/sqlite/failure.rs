//! What a failure of the database library means to callers.
//!
//! Invariant: what says nothing of the request, only of the disk, the locks or the moment, is temporary; everything else stays wrong.

use std::io::ErrorKind;

use super::super::Error;

/// SQLite's result code for a full disk, and for `max_page_count`.
const FULL: u32 = 13;
/// SQLite's result code for a damaged database.
pub(super) const CORRUPT: u32 = 11;
/// SQLite's result code for a database that this process cannot write.
pub(super) const READ_ONLY: u32 = 8;
/// SQLite's result codes that say nothing of the statement: BUSY, LOCKED, NOMEM, READONLY, IOERR, CANTOPEN and PROTOCOL (a lock that could not be
/// had). A full quota is IOERR to SQLite.
const PASSING: [u32; 7] = [5, 6, 7, READ_ONLY, 10, 14, 15];

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        let code = primary_code(&error);
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

/// SQLite's result code without the bits that extend it.
pub(super) fn primary_code(error: &sqlx::Error) -> Option<u32> {
    let code = error.as_database_error()?.code()?;
    Some(code.parse::<u32>().ok()? & 0xff)
}
