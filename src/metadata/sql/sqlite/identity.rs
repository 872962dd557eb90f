//! Which database this is, and whether it is whole.
//!
//! Invariant: a database has its id from its first opening on and never another; one that lost commits, that is damaged or that cannot be written is
//! refused before anything is written to it.

use std::fs;
use std::path::Path;

use sqlx::migrate::MigrateError;
use sqlx::{Row, SqliteConnection, SqlitePool};

use super::super::super::{Error, OpenError, Result};
use super::super::failure::{CORRUPT, READ_ONLY, primary_code};
use super::ledger::{self, Ledger};

type Opened<T> = std::result::Result<T, OpenError>;

/// Size up to which a database is checked whole at start: about a tenth of a second.
const QUICK_CHECK: u64 = 64 << 20;

/// Refuses a file that nobody may write. Without this SQLite would open it for reading only, and for a privileged user its mode would mean nothing.
pub(super) fn writable(path: &Path) -> Opened<()> {
    match fs::metadata(path) {
        Ok(file) if file.permissions().readonly() => Err(OpenError::ReadOnly { path: path.into() }),
        // What else is wrong with the file, the database itself will say.
        Ok(_) | Err(_) => Ok(()),
    }
}

/// Looks for damage in a database that is not too large for that.
pub(super) async fn undamaged(path: &Path, writer: &SqlitePool) -> Opened<()> {
    let size = fs::metadata(path).map_or(0, |file| file.len());
    if size > QUICK_CHECK {
        return Ok(());
    }
    let checked: sqlx::Result<String> = sqlx::query_scalar("PRAGMA quick_check(1)")
        .fetch_one(writer)
        .await;
    let problem = match checked {
        Ok(found) if found == "ok" => return Ok(()),
        Ok(found) => found,
        Err(error) if primary_code(&error) == Some(CORRUPT) => error.to_string(),
        Err(error) => return Err(Error::from(error).into()),
    };
    Err(OpenError::Damaged {
        path: path.into(),
        problem,
    })
}

/// Says of an opening that met damage before it was looked for that this is what it met.
pub(super) fn or_damaged(error: OpenError, path: &Path) -> OpenError {
    let OpenError::Database(Error::Backend(source)) = &error else {
        return error;
    };
    let code = source
        .downcast_ref::<sqlx::Error>()
        .or_else(|| match source.downcast_ref::<MigrateError>() {
            Some(MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _)) => {
                Some(error)
            }
            Some(_) | None => None,
        })
        .and_then(primary_code);
    if code != Some(CORRUPT) {
        return error;
    }
    OpenError::Damaged {
        path: path.into(),
        problem: source.to_string(),
    }
}

/// A database's id and its count of commits; a database without an id gets one.
pub(super) async fn of(conn: &mut SqliteConnection) -> Result<(String, u64)> {
    let sql = "INSERT INTO store (one, id, commits) VALUES (1, ?, 0) ON CONFLICT DO NOTHING";
    let exists: bool = sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM store)")
        .fetch_one(&mut *conn)
        .await?;
    if !exists {
        let id = uuid::Uuid::now_v7().to_string();
        sqlx::query(sql).bind(id).execute(&mut *conn).await?;
    }
    let row = sqlx::query("SELECT id, commits FROM store")
        .fetch_one(conn)
        .await?;
    let commits: i64 = row.try_get(1)?;
    Ok((row.try_get(0)?, u64::try_from(commits).unwrap_or(0)))
}

/// Compares the database's count of commits with what was noted beside it.
pub(super) fn complete(
    database: &Path,
    id: &str,
    commits: u64,
    accept_data_loss: bool,
) -> Opened<()> {
    let noted = Ledger::read(&ledger::path(database));
    // The note of another database says nothing of this one.
    let Some(noted) = noted.filter(|noted| noted.id == id) else {
        return Ok(());
    };
    if noted.commits <= commits {
        return Ok(());
    }
    let lost = noted.commits - commits;
    if accept_data_loss {
        tracing::warn!(lost, "the database goes on without its last changes");
        return Ok(());
    }
    Err(OpenError::CommitsLost {
        path: database.into(),
        lost,
    })
}

/// Counts a commit, to see whether the database can be written. A disk that is full or fails now is no reason not to start: what is stored can be
/// served.
pub(super) async fn counted(path: &Path, writer: &SqlitePool) -> Opened<Option<Error>> {
    match sqlx::query("UPDATE store SET commits = commits + 1")
        .execute(writer)
        .await
    {
        Ok(_) => Ok(None),
        Err(error) if primary_code(&error) == Some(READ_ONLY) => {
            Err(OpenError::ReadOnly { path: path.into() })
        }
        Err(error) => {
            let error = Error::from(error);
            if error.is_temporary() {
                Ok(Some(error))
            } else {
                Err(error.into())
            }
        }
    }
}
