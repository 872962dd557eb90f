//! How a PostgreSQL server is reached: its address, the password in a file, TLS, limits on time.
//!
//! Invariant: the password is in no message and no log; across a network the server's certificate is checked, unless the URL says otherwise.

use std::io::ErrorKind;
use std::str::FromStr;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions, PgSslMode};
use sqlx::{ConnectOptions, Connection};

use super::super::super::{Error, Result, ServerConfig};
use super::Stale;
use super::bounds::MARGIN;

/// What connections say whose they are.
pub(super) const NAME: &str = "frameshift";
/// How old a connection becomes: a primary that moved is found, and a proxy's memory of it does not grow.
const LIFETIME: Duration = Duration::from_secs(600);
/// How long a connection that nobody uses stays open; [`super::spare`] closes those that are used in turn and not needed after as long.
const IDLE: Duration = Duration::from_secs(60);
/// How long a statement waits for another transaction's lock: longer than any of ours holds one.
const LOCK: Duration = Duration::from_secs(10);
/// How long a transaction may do nothing: its process is gone, and others wait for its locks.
const ABANDONED: Duration = Duration::from_secs(60);

/// So many connections at most, which are opened when they are needed.
pub(super) fn pool(config: &ServerConfig, most: u32, stale: Stale) -> Result<PgPool> {
    // What a session keeps would be another client's behind a pooler; there, transactions have their limits alone.
    let own = (!config.is_pooled()).then_some(config.statement_timeout.as_millis());
    let longest = config.statement_timeout.saturating_add(MARGIN);
    let pool = PgPoolOptions::new()
        .max_connections(most)
        .acquire_timeout(config.connect_timeout)
        .max_lifetime(LIFETIME)
        .idle_timeout(IDLE)
        .before_acquire(move |_, connection| {
            let is_fresh = stale.is_fresh(connection.age);
            Box::pin(async move { Ok(is_fresh) })
        })
        .after_release(move |conn, _| {
            // The library asks each connection that comes back whether it lives, without a limit: one that died without a word would keep its place for many minutes.
            Box::pin(async move {
                let asked = tokio::time::timeout(longest, conn.ping()).await;
                let asked = asked.map_err(|_late| std::io::Error::from(ErrorKind::TimedOut))?;
                asked.map(|()| true)
            })
        })
        .after_connect(move |conn, _| {
            Box::pin(async move {
                let Some(limit) = own else {
                    return Ok(());
                };
                let limit = format!("SET statement_timeout = {limit}");
                let limit = sqlx::query(sqlx::AssertSqlSafe(limit));
                limit.execute(conn).await.map(drop)
            })
        });
    Ok(pool.connect_lazy_with(options(config)?))
}

/// The limits of a transaction, as statements.
pub(super) fn limits(config: &ServerConfig) -> String {
    format!(
        "SET LOCAL statement_timeout = {}; SET LOCAL lock_timeout = {}; \
         SET LOCAL idle_in_transaction_session_timeout = {}",
        config.statement_timeout.as_millis(),
        LOCK.as_millis(),
        ABANDONED.as_millis()
    )
}

/// The address with the password as it is now. Reads files, so that it blocks.
pub(super) fn options(config: &ServerConfig) -> Result<PgConnectOptions> {
    let url = config.url();
    // What the library says of a URL may quote it.
    let wrong = |_| {
        Error::Backend(
            "database_url or database_listen_url is no URL of a PostgreSQL database".into(),
        )
    };
    let mut options = PgConnectOptions::from_str(url).map_err(wrong)?;
    if !url.contains("sslmode=") && !url.contains("ssl-mode=") && !is_local(&options) {
        options = options.ssl_mode(PgSslMode::VerifyFull);
    }
    if let Some(path) = &config.password_file {
        let unreadable = |error: std::io::Error| {
            let problem = format!("database_password_file {}: {error}", path.display());
            Error::Unavailable(problem.into())
        };
        let password = SecretString::from(std::fs::read_to_string(path).map_err(unreadable)?);
        options = options.password(password.expose_secret().trim_end_matches(['\r', '\n']));
    }
    if config.is_pooled() {
        // PgBouncer refuses connections that ask for anything but what it knows.
        options = options.extra_float_digits(None);
    }
    Ok(options.application_name(NAME).disable_statement_logging())
}

/// Whether the server is on this machine: nobody between can listen.
fn is_local(options: &PgConnectOptions) -> bool {
    let host = options.get_host();
    options.get_socket().is_some()
        || host.starts_with('/')
        || host == "localhost"
        || host
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(url: &str) -> ServerConfig {
        ServerConfig::at(url).unwrap()
    }

    #[test]
    fn a_server_across_a_network_has_to_show_a_certificate() {
        for (url, expected) in [
            ("postgres://me@db.example/frameshift", PgSslMode::VerifyFull),
            (
                "postgres://me@db.example/frameshift?sslmode=require",
                PgSslMode::Require,
            ),
            (
                "postgres://me@127.0.0.1:5433/frameshift?sslmode=disable",
                PgSslMode::Disable,
            ),
        ] {
            let options = options(&server(url)).unwrap();
            let mode = format!("{:?}", options.get_ssl_mode());
            assert_eq!(mode, format!("{expected:?}"), "{url}");
        }
        let local = server("postgres:///frameshift?host=/run/postgresql");
        assert!(is_local(&options(&local).unwrap()));
    }

    #[test]
    fn a_wrong_url_is_named() {
        let error = options(&server("postgres://me@:x/y")).unwrap_err();
        let text = format!("{error:?}");
        assert!(text.contains("database_url"), "{text}");
    }

    #[test]
    fn the_password_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("password");
        let mut server = server("postgres://me@localhost/y");
        server.password_file = Some(path.clone());
        let error = options(&server).unwrap_err();
        assert!(error.is_temporary(), "{error:?}");
        for password in ["first", "second"] {
            std::fs::write(&path, format!("{password}\n")).unwrap();
            let url = options(&server).unwrap().to_url_lossy().to_string();
            assert!(url.contains(&format!("me:{password}@")), "{url}");
        }
    }
}
