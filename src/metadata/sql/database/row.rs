//! A row of either database, read by the names of its columns.
//!
//! Invariant: whole numbers and booleans of every width read as one type, so that both databases say the same.

use sqlx::Row as _;
#[cfg(feature = "postgres")]
use sqlx::postgres::PgRow;
use sqlx::sqlite::SqliteRow;
#[cfg(feature = "postgres")]
use sqlx::{TypeInfo as _, ValueRef as _};

use super::super::super::Result;
use super::super::rows::Columns;
#[cfg(feature = "postgres")]
use super::super::rows::corrupt;

/// A row that a statement found.
pub(in super::super) enum Row {
    /// Of SQLite.
    Sqlite(SqliteRow),
    /// Of PostgreSQL.
    #[cfg(feature = "postgres")]
    Postgres(PgRow),
}

/// Does the same with a row of either database.
macro_rules! both {
    ($row:expr, $method:ident, $column:ident) => {
        match $row {
            Row::Sqlite(row) => row.$method($column),
            #[cfg(feature = "postgres")]
            Row::Postgres(row) => row.$method($column),
        }
    };
}

impl Columns for Row {
    fn text(&self, column: &'static str) -> Result<String> {
        both!(self, text, column)
    }

    fn optional_text(&self, column: &'static str) -> Result<Option<String>> {
        both!(self, optional_text, column)
    }

    fn int(&self, column: &'static str) -> Result<i64> {
        both!(self, int, column)
    }

    fn optional_int(&self, column: &'static str) -> Result<Option<i64>> {
        both!(self, optional_int, column)
    }

    fn blob(&self, column: &'static str) -> Result<Vec<u8>> {
        both!(self, blob, column)
    }

    fn optional_blob(&self, column: &'static str) -> Result<Option<Vec<u8>>> {
        both!(self, optional_blob, column)
    }
}

impl Columns for SqliteRow {
    fn text(&self, column: &'static str) -> Result<String> {
        Ok(self.try_get(column)?)
    }

    fn optional_text(&self, column: &'static str) -> Result<Option<String>> {
        Ok(self.try_get(column)?)
    }

    fn int(&self, column: &'static str) -> Result<i64> {
        Ok(self.try_get(column)?)
    }

    fn optional_int(&self, column: &'static str) -> Result<Option<i64>> {
        Ok(self.try_get(column)?)
    }

    fn blob(&self, column: &'static str) -> Result<Vec<u8>> {
        Ok(self.try_get(column)?)
    }

    fn optional_blob(&self, column: &'static str) -> Result<Option<Vec<u8>>> {
        Ok(self.try_get(column)?)
    }
}

#[cfg(feature = "postgres")]
impl Columns for PgRow {
    fn text(&self, column: &'static str) -> Result<String> {
        Ok(self.try_get(column)?)
    }

    fn optional_text(&self, column: &'static str) -> Result<Option<String>> {
        Ok(self.try_get(column)?)
    }

    fn int(&self, column: &'static str) -> Result<i64> {
        let value = self.optional_int(column)?;
        value.ok_or_else(|| corrupt(column, "it is absent"))
    }

    fn optional_int(&self, column: &'static str) -> Result<Option<i64>> {
        let value = self.try_get_raw(column)?;
        if value.is_null() {
            return Ok(None);
        }
        let kind = value.type_info().name().to_owned();
        Ok(Some(match kind.as_str() {
            "BOOL" => i64::from(self.try_get::<bool, _>(column)?),
            "INT4" => i64::from(self.try_get::<i32, _>(column)?),
            _ => self.try_get(column)?,
        }))
    }

    fn blob(&self, column: &'static str) -> Result<Vec<u8>> {
        Ok(self.try_get(column)?)
    }

    fn optional_blob(&self, column: &'static str) -> Result<Option<Vec<u8>>> {
        Ok(self.try_get(column)?)
    }
}
