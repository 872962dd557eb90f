//! A statement with its values, which either database runs.
//!
//! Invariant: a statement's text is fixed in the program; what callers give is bound, never part of it.

#[cfg(feature = "postgres")]
use std::borrow::Cow;
#[cfg(debug_assertions)]
use std::sync::OnceLock;
#[cfg(debug_assertions)]
use std::sync::atomic::{AtomicU64, Ordering};

#[cfg(feature = "postgres")]
use sqlx::SqlSafeStr as _;
use sqlx::SqlStr;

use super::super::super::{Error, Result};
use super::super::condition::Writes;
#[cfg(feature = "postgres")]
use super::super::postgres::Bounds;
use super::{Conn, Row};

/// A value that is bound to a statement; an absent one keeps its type.
#[derive(Debug, Clone)]
pub(in super::super) enum Value {
    /// A whole number, a time, a boolean as 0 or 1.
    Int(Option<i64>),
    /// A text.
    Text(Option<String>),
    /// Bytes.
    Bytes(Option<Vec<u8>>),
}

/// Parts of the texts of statements that lock nothing in this process.
#[cfg(debug_assertions)]
static LEFT_OUT: OnceLock<Vec<String>> = OnceLock::new();

/// Makes statements that contain one of these texts lock nothing from now on, so that a test can show what a lock prevents. A program that ships does not
/// have this function. Later calls have no effect.
#[cfg(debug_assertions)]
pub fn leave_out_locks(texts: Vec<String>) {
    let _ = LEFT_OUT.set(texts);
}

/// Statements that this process has run.
#[cfg(debug_assertions)]
static RUN: AtomicU64 = AtomicU64::new(0);

/// Statements that this process has run so far, with those that begin and end transactions; what takes back a transaction that only read is not counted. A
/// program that ships does not have this function.
#[cfg(debug_assertions)]
pub fn statements() -> u64 {
    RUN.load(Ordering::Relaxed)
}

/// Counts statements that are run, where somebody may ask for their number.
pub(super) fn count(statements: u64) {
    #[cfg(debug_assertions)]
    RUN.fetch_add(statements, Ordering::Relaxed);
    #[cfg(not(debug_assertions))]
    let _ = statements;
}

/// Whether a statement is to lock nothing, which it never is in a program that ships.
#[cfg(feature = "postgres")]
fn is_left_out(sql: &str) -> bool {
    #[cfg(debug_assertions)]
    {
        let texts = LEFT_OUT.get();
        texts.is_some_and(|texts| texts.iter().any(|text| sql.contains(text.as_str())))
    }
    #[cfg(not(debug_assertions))]
    {
        let _ = sql;
        false
    }
}

/// A statement and its values so far.
pub(in super::super) struct Query {
    sql: &'static str,
    /// What PostgreSQL does with the rows that are found.
    #[cfg_attr(not(feature = "postgres"), allow(dead_code))]
    lock: Option<&'static str>,
    values: Vec<Value>,
}

/// A statement without values yet.
pub(in super::super) fn query(sql: &'static str) -> Query {
    Query {
        sql,
        lock: None,
        values: Vec::new(),
    }
}

/// A selection whose rows nobody else changes or locks until the transaction ends. It waits for whoever has one, and then sees the row as that left
/// it. SQLite's only writer has everything anyway.
pub(in super::super) fn locking(sql: &'static str) -> Query {
    let lock = Some(" FOR UPDATE");
    let values = Vec::new();
    Query { sql, lock, values }
}

/// A selection whose rows nobody changes until the transaction ends, though others may share them.
pub(in super::super) fn sharing(sql: &'static str) -> Query {
    let lock = Some(" FOR SHARE");
    let values = Vec::new();
    Query { sql, lock, values }
}

/// As [`locking`], but rows that another transaction has are left out.
pub(in super::super) fn skipping(sql: &'static str) -> Query {
    let lock = Some(" FOR UPDATE SKIP LOCKED");
    let values = Vec::new();
    Query { sql, lock, values }
}

/// Notes that a statement of a transaction that writes failed. SQLite takes back the whole transaction only at some of the errors of a full disk.
fn noted<T>(found: sqlx::Result<T>, writes: Option<&Writes>) -> Result<T> {
    found.map_err(|error| {
        let error = Error::from(error);
        if let Some(writes) = writes {
            writes.note(&error);
        }
        error
    })
}

/// Binds the values and runs the statement with a method of the library; `row` makes a [`Row`] of what the database found.
macro_rules! run {
    ($query:ident, $conn:ident, $method:ident, |$found:ident, $row:ident| $read:expr) => {{
        count(1);
        match $conn {
            Conn::Sqlite(tx, writes) => {
                let $found = $query.sqlite().$method(&mut **tx).await;
                let $found = noted($found, writes.as_ref())?;
                let $row = Row::Sqlite;
                $read
            }
            Conn::SqliteOnce(conn) => {
                let $found = $query.sqlite().$method(&mut **conn).await?;
                let $row = Row::Sqlite;
                $read
            }
            #[cfg(feature = "postgres")]
            Conn::Postgres(tx, bounds) => {
                let $found = $query.postgres(bounds).$method(&mut **tx);
                let $found = bounds.keep($found).await?;
                let $row = Row::Postgres;
                $read
            }
            #[cfg(feature = "postgres")]
            Conn::PostgresOnce(conn, bounds) => {
                let $found = $query.postgres(bounds).$method(&mut **conn);
                let $found = bounds.keep($found).await?;
                let $row = Row::Postgres;
                $read
            }
        }
    }};
}

/// Binds values to a statement of the library.
macro_rules! bound {
    ($statement:expr, $values:expr) => {{
        let mut statement = $statement;
        for value in $values {
            statement = match value {
                Value::Int(value) => statement.bind(value),
                Value::Text(value) => statement.bind(value),
                Value::Bytes(value) => statement.bind(value),
            };
        }
        statement
    }};
}

type SqliteQuery = sqlx::query::Query<'static, sqlx::Sqlite, sqlx::sqlite::SqliteArguments>;
#[cfg(feature = "postgres")]
type PostgresQuery = sqlx::query::Query<'static, sqlx::Postgres, sqlx::postgres::PgArguments>;

impl Query {
    /// Gives the next value.
    pub(in super::super) fn bind(mut self, value: impl Into<Value>) -> Self {
        self.values.push(value.into());
        self
    }

    /// All rows that the statement finds.
    pub(in super::super) async fn fetch_all(self, conn: &mut Conn) -> Result<Vec<Row>> {
        Ok(run!(self, conn, fetch_all, |found, row| found
            .into_iter()
            .map(row)
            .collect()))
    }

    /// The one row that the statement finds.
    pub(in super::super) async fn fetch_one(self, conn: &mut Conn) -> Result<Row> {
        Ok(run!(self, conn, fetch_one, |found, row| row(found)))
    }

    /// The row that the statement finds, if any.
    pub(in super::super) async fn fetch_optional(self, conn: &mut Conn) -> Result<Option<Row>> {
        Ok(run!(self, conn, fetch_optional, |found, row| found.map(row)))
    }

    /// Runs the statement. Returns how many rows it changed.
    pub(in super::super) async fn execute(self, conn: &mut Conn) -> Result<u64> {
        Ok(run!(self, conn, execute, |done, _row| done.rows_affected()))
    }

    /// Runs a statement that only locks: SQLite's only writer needs none. Returns whether there may be a row: what has none to lock can come while the
    /// transaction goes on, which must not see it then.
    pub(in super::super) async fn hold(self, conn: &mut Conn) -> Result<bool> {
        match conn {
            Conn::Sqlite(..) | Conn::SqliteOnce(_) => Ok(true),
            #[cfg(feature = "postgres")]
            Conn::Postgres(..) | Conn::PostgresOnce(..) if is_left_out(self.sql) => Ok(true),
            #[cfg(feature = "postgres")]
            Conn::Postgres(..) | Conn::PostgresOnce(..) => {
                self.execute(conn).await.map(|rows| rows > 0)
            }
        }
    }

    fn sqlite(self) -> SqliteQuery {
        bound!(sqlx::query(SqlStr::from_static(self.sql)), self.values)
    }

    #[cfg(feature = "postgres")]
    fn postgres(self, bounds: &Bounds) -> PostgresQuery {
        let lock = self.lock.filter(|_| !is_left_out(self.sql));
        let text = match (for_postgres(self.sql), lock) {
            (Cow::Borrowed(text), None) => SqlStr::from_static(text),
            (text, lock) => {
                let text = format!("{text}{}", lock.unwrap_or_default());
                sqlx::AssertSqlSafe(text).into_sql_str()
            }
        };
        bound!(bounds.statement(text, names_columns(self.sql)), self.values)
    }
}

/// Whether a statement names the columns that it gives. PostgreSQL refuses a prepared statement whose columns have changed since, as a migration of the next
/// release changes them while this one still runs: so one that does not name them is prepared anew each time.
#[cfg(feature = "postgres")]
fn names_columns(sql: &str) -> bool {
    const ALL: [&str; 3] = ["SELECT *", ".*", "RETURNING *"];
    !ALL.iter().any(|all| sql.contains(all))
}

/// The statement without the hints on indices, which PostgreSQL does not have.
#[cfg(feature = "postgres")]
fn for_postgres(sql: &'static str) -> Cow<'static, str> {
    const HINT: &str = " INDEXED BY ";
    if !sql.contains(HINT) {
        return Cow::Borrowed(sql);
    }
    let mut parts = sql.split(HINT);
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        // The name of the index ends where a word does.
        let end = part.find(|letter: char| !letter.is_alphanumeric() && letter != '_');
        text.push_str(&part[end.unwrap_or(part.len())..]);
    }
    Cow::Owned(text)
}

/// Makes values of a type of ours, present or absent.
macro_rules! values {
    ($($variant:ident: $($own:ty => |$value:ident| $stored:expr),+;)+) => {
        $($(
            impl From<$own> for Value {
                fn from($value: $own) -> Self {
                    Self::$variant(Some($stored))
                }
            }

            impl From<Option<$own>> for Value {
                fn from(value: Option<$own>) -> Self {
                    Self::$variant(value.map(|$value| $stored))
                }
            }
        )+)+
    };
}

values! {
    Int: i64 => |value| value, u32 => |value| i64::from(value), u8 => |value| i64::from(value),
        bool => |value| i64::from(value), &i64 => |value| *value;
    Text: String => |value| value, &str => |value| value.to_owned(), &String => |value| value.clone();
    Bytes: Vec<u8> => |value| value, &[u8] => |value| value.to_owned(), &Vec<u8> => |value| value.clone();
}

#[cfg(all(test, feature = "postgres"))]
#[allow(clippy::expect_used)]
mod tests {
    use super::super::super::super::ServerConfig;
    use super::*;

    fn is_kept(query: &PostgresQuery) -> bool {
        <PostgresQuery as sqlx::Execute<'_, sqlx::Postgres>>::persistent(query)
    }

    fn bounds(is_pooled: bool) -> Bounds {
        let mut config = ServerConfig::at("postgres://me@db/frameshift").expect("a URL");
        if is_pooled {
            config
                .through_pooler("postgres://me@db/frameshift")
                .expect("a URL");
        }
        Bounds::new(&config)
    }

    #[test]
    fn only_statements_that_name_their_columns_stay_prepared() {
        for sql in [
            "SELECT * FROM datasets WHERE id = $1",
            "SELECT t.*, u.videos FROM tenants AS t",
            "UPDATE jobs SET state = $1 RETURNING *",
        ] {
            let kept = query(sql).bind("one").postgres(&bounds(false));
            assert!(!is_kept(&kept), "{sql}");
        }
        for sql in [
            "SELECT COUNT(*) AS found FROM jobs",
            "DELETE FROM jobs WHERE id = $1 RETURNING id",
            "SELECT 2 * 3",
        ] {
            let kept = query(sql).bind("one").postgres(&bounds(false));
            assert!(is_kept(&kept), "{sql}");
            let kept = query(sql).bind("one").postgres(&bounds(true));
            assert!(!is_kept(&kept), "{sql} behind a pooler");
        }
    }

    #[test]
    fn hints_on_indices_are_left_out_for_postgresql() {
        for (sql, expected) in [
            ("SELECT 1", "SELECT 1"),
            (
                "SELECT id FROM jobs INDEXED BY waiting_jobs WHERE a = $1",
                "SELECT id FROM jobs WHERE a = $1",
            ),
            (
                "(SELECT 1 FROM a INDEXED BY b) UNION SELECT 2 FROM c AS d INDEXED BY e_f",
                "(SELECT 1 FROM a) UNION SELECT 2 FROM c AS d",
            ),
        ] {
            assert_eq!(for_postgres(sql), expected);
        }
    }
}
