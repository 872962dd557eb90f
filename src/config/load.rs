//! The layers of the configuration: defaults < file < environment < flags, each value with where it came from.
//!
//! Invariant: a key has one name everywhere: `queue_clips` in the file is `FRAMESHIFT_QUEUE_CLIPS` in the environment and `--queue-clips` as a flag.
//! Environment variables that name no key are ignored, since orchestrators add their own with the same prefix.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::{Table, Value};

use super::settings::{DEFAULTS, Flags, Settings};

/// Prefix of every environment variable.
pub const PREFIX: &str = "FRAMESHIFT_";
/// Variable that names the file.
pub const FILE_VARIABLE: &str = "FRAMESHIFT_CONFIG";

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Built in.
    Default,
    /// A TOML file.
    File(PathBuf),
    /// An environment variable, by name.
    Environment(String),
    /// A flag of the command line, as it is written.
    Flag(String),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Environment(name) => write!(f, "environment variable {name}"),
            Self::Flag(name) => write!(f, "flag {name}"),
        }
    }
}

/// Why there is no valid configuration.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("cannot read the configuration file {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not TOML.
    #[error("the configuration file {} is not TOML: {source}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: Box<toml::de::Error>,
    },
    /// A key that does not exist.
    #[error("{key}: no such key (from {from})")]
    Unknown {
        /// The key.
        key: String,
        /// Where it was given.
        from: Source,
    },
    /// A value that is wrong.
    #[error("{key}: {problem} (from {from})")]
    Value {
        /// The key.
        key: String,
        /// Where the value was given.
        from: Source,
        /// What is wrong with it.
        problem: String,
    },
}

/// All values in force, and where each came from.
#[derive(Debug, Clone)]
pub struct Layered {
    values: Table,
    sources: BTreeMap<String, Source>,
}

impl Layered {
    /// Puts the layers on each other. `file`, when given, wins over `FRAMESHIFT_CONFIG`.
    ///
    /// # Errors
    /// Names the key and the source of the first value that is unknown or does not parse.
    pub fn load(
        file: Option<&Path>,
        environment: &BTreeMap<String, String>,
        flags: &Flags,
    ) -> Result<Self, Error> {
        let mut layered = Self {
            values: Table::new(),
            sources: BTreeMap::new(),
        };
        for (key, text) in DEFAULTS {
            layered.set_text(key, text, Source::Default)?;
        }
        let named = environment.get(FILE_VARIABLE).map(PathBuf::from);
        if let Some(path) = file.map(Path::to_path_buf).or(named) {
            layered.read(&path)?;
        }
        for key in Settings::KEYS {
            let name = format!("{PREFIX}{}", key.to_uppercase());
            if let Some(text) = environment.get(&name) {
                layered.set_text(key, text, Source::Environment(name))?;
            }
        }
        for (key, value) in flags.given() {
            let from = Source::Flag(format!("--{}", key.replace('_', "-")));
            layered.set(&key, value, from)?;
        }
        Ok(layered)
    }

    /// Where a key's value came from.
    pub fn source(&self, key: &str) -> Source {
        self.sources.get(key).cloned().unwrap_or(Source::Default)
    }

    /// A complaint about a key's value, with its source.
    pub fn complain(&self, key: &str, problem: impl Into<String>) -> Error {
        Error::Value {
            key: key.into(),
            from: self.source(key),
            problem: problem.into(),
        }
    }

    /// The values as typed settings.
    ///
    /// # Errors
    /// When a value that has no default is missing; every present value was checked when it was set.
    pub fn settings(&self) -> Result<Settings, Error> {
        Settings::deserialize(self.values.clone()).map_err(|error| Error::Value {
            key: "configuration".into(),
            from: Source::Default,
            problem: error.message().into(),
        })
    }

    /// The configuration in force as TOML, each value with its source; keys without a value are comments.
    pub fn dump(&self) -> String {
        let mut text = String::new();
        for key in Settings::KEYS {
            match self.values.get(*key) {
                Some(value) => text += &format!("{key} = {value} # {}\n", self.source(key)),
                None => text += &format!("# {key} is not set\n"),
            }
        }
        text
    }

    fn read(&mut self, path: &Path) -> Result<(), Error> {
        let text = std::fs::read_to_string(path).map_err(|source| Error::Read {
            path: path.into(),
            source,
        })?;
        let table: Table = text.parse().map_err(|source| Error::Syntax {
            path: path.into(),
            source: Box::new(source),
        })?;
        for (key, value) in table {
            self.set(&key, value, Source::File(path.into()))?;
        }
        Ok(())
    }

    /// Text has no type of its own: a number or a switch is tried first, then plain text.
    fn set_text(&mut self, key: &str, text: &str, from: Source) -> Result<(), Error> {
        let typed = match text {
            "true" => Some(Value::Boolean(true)),
            "false" => Some(Value::Boolean(false)),
            _ => text.parse().ok().map(Value::Integer),
        };
        if let Some(value) = typed
            && self.set(key, value, from.clone()).is_ok()
        {
            return Ok(());
        }
        self.set(key, Value::String(text.into()), from)
    }

    /// Each value is checked alone, so that the complaint can name its key and source.
    fn set(&mut self, key: &str, value: Value, from: Source) -> Result<(), Error> {
        if !Settings::KEYS.contains(&key) {
            return Err(Error::Unknown {
                key: key.into(),
                from,
            });
        }
        let alone = Table::from_iter([(key.to_owned(), value.clone())]);
        if let Err(error) = Flags::deserialize(alone) {
            return Err(Error::Value {
                key: key.into(),
                from,
                problem: error.message().into(),
            });
        }
        self.values.insert(key.into(), value);
        self.sources.insert(key.into(), from);
        Ok(())
    }
}
