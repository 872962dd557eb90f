//! Sets up the log: text for people, JSON for machines, with a filter.
//!
//! Invariant: logs go to standard error, so that standard output stays the commands' own.

use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::SubscriberInitExt;

use super::Error;

/// Format of log lines.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// Text for people; coloured on a terminal only.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// Sets up the process's log on standard error; `filter` is in the syntax of `EnvFilter`, for example `info,frameshift::engine=debug`.
///
/// # Errors
/// [`Error::Filter`] when the filter does not parse, [`Error::AlreadySet`] on a second call.
pub fn init(format: LogFormat, filter: &str) -> Result<(), Error> {
    let filter = EnvFilter::try_new(filter).map_err(|source| Error::Filter {
        filter: filter.to_owned(),
        source,
    })?;
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr);
    let set = match format {
        LogFormat::Text => lines
            .with_ansi(io::stderr().is_terminal())
            .finish()
            .try_init(),
        LogFormat::Json => lines
            .json()
            .flatten_event(true)
            .with_current_span(true)
            .with_span_list(false)
            .finish()
            .try_init(),
    };
    set.map_err(|_| Error::AlreadySet)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_filter_is_named() {
        let error = init(LogFormat::Text, "frameshift=loudly").unwrap_err();
        assert_eq!(
            error.to_string(),
            "log filter \"frameshift=loudly\" is not valid"
        );
    }
}
