//! Layers of the configuration: defaults < file < environment < flags. Each value keeps its source.
//!
//! Invariant: a key has one name everywhere: `queue_clips` in the file is `FRAMESHIFT_QUEUE_CLIPS` in the environment and `--queue-clips` as a flag.
//! Environment variables that name no key are ignored, since orchestrators add their own with the same prefix; the others are warned of.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use secrecy::SecretString;
use serde::Deserialize;
use toml::{Table, Value};

use super::settings::{DEFAULTS, Flags, Settings};
use crate::store::bucket::Kind;

/// Prefix of the environment variables of all settings.
pub const PREFIX: &str = "FRAMESHIFT_";
/// Environment variable that names the configuration file.
pub const FILE_VARIABLE: &str = "FRAMESHIFT_CONFIG";

/// Keys that only tests set.
const HIDDEN: &[&str] = &["crash_at", "cpu"];

/// Variables with our prefix that are no settings of the server.
const OTHERS: &[&str] = &[
    FILE_VARIABLE,
    "FRAMESHIFT_SERVER",
    "FRAMESHIFT_TENANT",
    "FRAMESHIFT_SHARED",
    "FRAMESHIFT_ADMIN_SERVER",
    "FRAMESHIFT_API_KEY",
    "FRAMESHIFT_API_KEY_FILE",
    "FRAMESHIFT_TLS_CA",
    "FRAMESHIFT_TLS_CERT",
    "FRAMESHIFT_TLS_CERT_KEY",
];

/// Environment variables with our prefix that name no setting: perhaps misspelt. Those that orchestrators add for a service are left out.
pub fn strangers(environment: &BTreeMap<String, String>) -> Vec<&str> {
    let is_service = |word: &str| {
        let mut parts = word.split('_');
        parts.any(|part| part == "PORT")
            || word == "SERVICE_HOST"
            || word.ends_with("_SERVICE_HOST")
    };
    let is_stranger = |name: &&str| {
        name.strip_prefix(PREFIX).is_some_and(|word| {
            let key = word.to_lowercase();
            !Settings::KEYS.contains(&key.as_str()) && !OTHERS.contains(name) && !is_service(word)
        })
    };
    environment
        .keys()
        .map(String::as_str)
        .filter(is_stranger)
        .collect()
}

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// The built-in default.
    Default,
    /// A TOML file, by path.
    File(PathBuf),
    /// An environment variable, by name.
    Environment(String),
    /// A flag of the command line, as it is written (`--queue-clips`).
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

/// Reason why the configuration is not valid.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration file cannot be read.
    #[error("cannot read the configuration file {}: {source}", path.display())]
    Read {
        /// Path of the file.
        path: PathBuf,
        /// Error of the operating system.
        source: std::io::Error,
    },
    /// The configuration file is not TOML.
    #[error("the configuration file {} is not TOML: {source}", path.display())]
    Syntax {
        /// Path of the file.
        path: PathBuf,
        /// Error of the parser, with the position.
        source: Box<toml::de::Error>,
    },
    /// The key does not exist.
    #[error("{key}: no such key (from {from})")]
    Unknown {
        /// Name of the key.
        key: String,
        /// Source of the key.
        from: Source,
    },
    /// The value is not valid.
    #[error("{key}: {problem} (from {from})")]
    Value {
        /// Name of the key.
        key: String,
        /// Source of the value.
        from: Source,
        /// Reason why the value is refused.
        problem: String,
    },
}

/// Merged values of all layers, each with its source.
#[derive(Debug, Clone)]
pub struct Layered {
    values: Table,
    sources: BTreeMap<String, Source>,
    /// Variables of the environment that the platforms' own tools read.
    platform: Vec<(String, SecretString)>,
}

impl Layered {
    /// Merges the layers. `file`, when given, takes precedence over `FRAMESHIFT_CONFIG`.
    ///
    /// # Errors
    /// When a file cannot be read or parsed, or a key or value is not valid; the error names the first such key and its source.
    pub fn load(
        file: Option<&Path>,
        environment: &BTreeMap<String, String>,
        flags: &Flags,
    ) -> Result<Self, Error> {
        let mut layered = Self {
            values: Table::new(),
            sources: BTreeMap::new(),
            platform: platform(environment),
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

    /// Returns the variables of the environment that the platforms' own tools read, for buckets.
    pub fn platform(&self) -> &[(String, SecretString)] {
        &self.platform
    }

    /// Returns the source of a key's value; the default when the key was never set.
    pub fn source(&self, key: &str) -> Source {
        self.sources.get(key).cloned().unwrap_or(Source::Default)
    }

    /// Returns an error about a key's value, with the source of the value.
    pub fn complain(&self, key: &str, problem: impl Into<String>) -> Error {
        Error::Value {
            key: key.into(),
            from: self.source(key),
            problem: problem.into(),
        }
    }

    /// Returns the values as typed settings.
    ///
    /// # Errors
    /// When a key without a default has no value; every present value was validated when it was set.
    pub fn settings(&self) -> Result<Settings, Error> {
        Settings::deserialize(self.values.clone()).map_err(|error| Error::Value {
            key: "configuration".into(),
            from: Source::Default,
            problem: error.message().into(),
        })
    }

    /// The configuration in force as TOML, each value with its source; keys without a value are comments, with the value that was derived from the
    /// machine, where there is one. What only tests set is shown only when it is set.
    pub fn dump(&self, derived: &[(&str, String)]) -> String {
        let mut text = String::new();
        for key in Settings::KEYS {
            let from_machine = derived.iter().find(|(name, _)| name == key);
            match (self.values.get(*key), from_machine) {
                (Some(value), _) => text += &format!("{key} = {value} # {}\n", self.source(key)),
                (None, Some((_, value))) => {
                    text += &format!("# {key} = {value} # derived from the machine\n");
                }
                (None, None) if HIDDEN.contains(key) => {}
                (None, None) => text += &format!("# {key} is not set\n"),
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

    /// Sets a key from text, which has no type of its own: a number or a switch is tried first, then a string.
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

    /// Sets one key. Each value is validated alone, so that the error can name its key and source.
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
                problem: plain(error.message()),
            });
        }
        self.values.insert(key.into(), value);
        self.sources.insert(key.into(), from);
        Ok(())
    }
}

fn platform(environment: &BTreeMap<String, String>) -> Vec<(String, SecretString)> {
    let is_platform = |name: &str| {
        let mut prefixes = Kind::PREFIXES.iter();
        prefixes.any(|prefix| name.starts_with(prefix))
    };
    let variables = environment.iter().filter(|(name, _)| is_platform(name));
    variables
        .map(|(name, value)| (name.clone(), SecretString::from(value.clone())))
        .collect()
}

/// A complaint without the names of Rust's types.
fn plain(message: &str) -> String {
    let words = message.split(' ').map(|word| match word {
        "usize" | "u8" | "u16" | "u32" | "u64" => "number",
        "i64" | "f64" => "number",
        word => word,
    });
    let text = words.collect::<Vec<_>>().join(" ");
    text.replace("a nonzero number", "a number above 0")
}
