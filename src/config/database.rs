//! Where the records are: in a file in the data directory, or on a PostgreSQL server.

use super::load::{Error, Layered};
use super::settings::Settings;
use crate::metadata::ServerConfig;

/// The fewest connections that a server can work with.
const LEAST: u32 = 3;

/// The server that the settings name.
///
/// # Errors
/// When its URL cannot be used, or something is set for a server that is not.
pub fn server(layers: &Layered, settings: &Settings) -> Result<Option<ServerConfig>, Error> {
    let Some(url) = &settings.database_url else {
        let set = [
            (
                "database_password_file",
                settings.database_password_file.is_some(),
            ),
            (
                "database_listen_url",
                settings.database_listen_url.is_some(),
            ),
        ];
        return match set.into_iter().find(|(_, is_set)| *is_set) {
            Some((key, _)) => Err(layers.complain(key, "it is for database_url, which is not set")),
            None => Ok(None),
        };
    };
    if !cfg!(feature = "postgres") {
        let problem = "this program was built without PostgreSQL, the feature `postgres`";
        return Err(layers.complain("database_url", problem));
    }
    let server = ServerConfig::at(url);
    let mut server = server.map_err(|error| layers.complain("database_url", error.to_string()))?;
    if let Some(url) = &settings.database_listen_url {
        let direct = server.through_pooler(url);
        direct.map_err(|error| layers.complain("database_listen_url", error.to_string()))?;
    }
    let spans = [
        ("database_timeout", settings.database_timeout),
        (
            "database_statement_timeout",
            settings.database_statement_timeout,
        ),
    ];
    for (key, span) in spans {
        if span.0.is_zero() {
            return Err(layers.complain(key, "expected more than 0"));
        }
    }
    server
        .password_file
        .clone_from(&settings.database_password_file);
    server.connections = settings.database_connections.get();
    if server.connections < LEAST {
        let problem =
            format!("expected {LEAST} or more: a job's submission needs two, hints need one");
        return Err(layers.complain("database_connections", problem));
    }
    server.connect_timeout = settings.database_timeout.0;
    server.statement_timeout = settings.database_statement_timeout.0;
    server.start_timeout = settings.database_start_timeout.0;
    server.migrate = settings.database_migrate;
    server.hints = settings.database_hints;
    Ok(Some(server))
}
