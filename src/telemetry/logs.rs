//! Sets up the log: text for people, JSON for machines, with a filter that can be changed while the server runs.
//!
//! Invariant: logs go to standard error, so that standard output stays the commands' own.

use std::fmt;
use std::io::{self, IsTerminal};
use std::sync::Arc;

use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt as lines, reload};

use super::Error;

/// Format of log lines.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// Text for people; coloured on a terminal only.
    #[default]
    Text,
    /// Each line is a JSON object.
    Json,
}

/// The filter of the process's log: it can be read and replaced. Clones share it.
#[derive(Clone)]
pub struct LogFilter(Arc<reload::Handle<EnvFilter, Registry>>);

impl fmt::Debug for LogFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LogFilter")
    }
}

impl fmt::Display for LogFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The log is gone only when the process ends.
        let text = self.0.with_current(ToString::to_string).unwrap_or_default();
        f.write_str(&text)
    }
}

impl LogFilter {
    /// Replaces the filter.
    ///
    /// # Errors
    /// [`Error::Filter`] when the text is empty or does not parse; the filter in force stays.
    pub fn replace(&self, text: &str) -> Result<(), Error> {
        // It would be read as one that shows errors only, which a forgotten body does not ask for.
        if text.trim().is_empty() {
            return Err(Error::NoFilter);
        }
        let filter = parse(text)?;
        // The log is gone only when the process ends.
        let _ = self.0.reload(filter);
        Ok(())
    }
}

fn parse(text: &str) -> Result<EnvFilter, Error> {
    EnvFilter::try_new(text).map_err(|source| Error::Filter {
        filter: text.to_owned(),
        source,
    })
}

/// Sets up the process's log on standard error; `filter` is in the syntax of `EnvFilter`, for example `info,frameshift::engine=debug`.
///
/// # Errors
/// [`Error::Filter`] when the filter does not parse, [`Error::AlreadySet`] on a second call.
pub fn init(format: LogFormat, filter: &str) -> Result<LogFilter, Error> {
    let (filter, handle) = reload::Layer::new(parse(filter)?);
    let text = lines::layer().with_writer(io::stderr);
    let lines = match format {
        LogFormat::Text => text.with_ansi(io::stderr().is_terminal()).boxed(),
        LogFormat::Json => text
            .json()
            .flatten_event(true)
            .with_current_span(true)
            .with_span_list(false)
            .boxed(),
    };
    let log = tracing_subscriber::registry().with(filter).with(lines);
    log.try_init().map_err(|_| Error::AlreadySet)?;
    Ok(LogFilter(Arc::new(handle)))
}

/// A filter whose log is shown nowhere, for tests of what changes it.
#[cfg(test)]
pub(super) fn unshown(filter: &str) -> (LogFilter, impl Sized) {
    let (layer, handle) = reload::Layer::new(parse(filter).unwrap());
    (LogFilter(Arc::new(handle)), layer)
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

    #[test]
    fn a_bad_filter_leaves_the_one_in_force() {
        let (filter, _log) = unshown("info,frameshift::engine=debug");
        let before = filter.to_string();
        for wrong in ["frameshift=loudly", "", "  "] {
            filter.replace(wrong).unwrap_err();
            assert_eq!(filter.to_string(), before, "{wrong:?}");
        }
        filter.replace("warn").unwrap();
        assert_eq!(filter.to_string(), "warn");
    }
}
