//! What was measured so far: in memory, and in a file that is written after each gate, so that an interrupted run goes on where it was.
//!
//! Invariant: a file holds figures of one condition only; one of other conditions is not taken over, nor written over.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Gate;
use super::table::{Line, Pair};
use crate::demo::machine::Machine;
use crate::tools::bench_serve::affinity::Split;
use crate::tools::bench_serve::{Error, system};

/// Under which conditions gates are measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Conditions {
    pub(super) version: String,
    pub(super) backbone: String,
    pub(super) precision: String,
    /// CPUs of the server and of the generator; absent when the system chose.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) cpus: Option<Split>,
    /// Checkpoint of the full-size backbone; absent when its weights are random.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) full_size: Option<PathBuf>,
    pub(super) seconds: f64,
    pub(super) warmup: f64,
    /// Most pairs of a gate; 0 in files that do not say.
    #[serde(default)]
    pub(super) pairs: usize,
    pub(super) seed: u64,
}

/// What is printed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Report {
    #[serde(flatten)]
    pub(super) conditions: Conditions,
    /// Where the newest gate was measured: processor and cores.
    #[serde(default)]
    pub(super) machine: String,
    /// When it was, in UTC.
    #[serde(default)]
    pub(super) date: String,
    pub(super) gates: Vec<Line>,
}

/// A report that grows.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) report: Report,
    path: Option<PathBuf>,
}

impl Record {
    /// Begins a record, or goes on with the one in the file.
    ///
    /// # Errors
    /// When the file cannot be read, or is of other conditions.
    pub(super) fn open(path: Option<&Path>, conditions: Conditions) -> Result<Self, Error> {
        let stored = path.map(read).transpose()?.flatten();
        let report = match stored {
            None => Report {
                conditions,
                machine: String::new(),
                date: String::new(),
                gates: Vec::new(),
            },
            Some(stored) if stored.conditions == conditions => stored,
            Some(_) => {
                let path = path.unwrap_or(Path::new("")).display();
                let problem = "is of another version, machine, length or number of pairs; give another file, or remove it";
                return Err(Error::Usage(format!("--out: {path} {problem}")));
            }
        };
        let path = path.map(Path::to_owned);
        Ok(Self { report, path })
    }

    /// Whether a gate was measured.
    pub(super) fn has(&self, gate: Gate) -> bool {
        let mut lines = self.report.gates.iter();
        lines.any(|line| line.name == gate && line.ratio.is_some())
    }

    /// Adds a gate, prints it beside its goal, and writes the file.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(super) fn add(
        &mut self,
        gate: Gate,
        measured: Result<Vec<Pair>, String>,
    ) -> Result<(), Error> {
        let line = Line::new(gate, measured);
        eprintln!("{}: {}", gate.name(), line.found());
        self.report.gates.retain(|own| own.name != gate);
        self.report.gates.push(line);
        let here = Machine::here();
        self.report.machine = format!("{}, {} cores", here.processor, here.cores);
        self.report.date = here.date;
        match &self.path {
            Some(path) => write(path, &self.json()).map_err(system("write --out")),
            None => Ok(()),
        }
    }

    /// The report as a line of JSON.
    pub(super) fn json(&self) -> String {
        // Numbers and names only: serde_json has no way to fail on them.
        serde_json::to_string(&self.report).unwrap_or_default()
    }
}

/// Reads a report; none when there is no file.
fn read(path: &Path) -> Result<Option<Report>, Error> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => {
            return Err(Error::Read {
                path: path.to_owned(),
                source,
            });
        }
    };
    let report = serde_json::from_slice(&bytes);
    report.map(Some).map_err(|error| Error::Read {
        path: path.to_owned(),
        source: io::Error::other(error),
    })
}

/// Puts a file in the place of another at once, so that an interrupted run leaves the one or the other.
fn write(path: &Path, text: &str) -> io::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".part");
    fs::write(&beside, format!("{text}\n"))?;
    fs::rename(&beside, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conditions(seconds: f64) -> Conditions {
        Conditions {
            version: "1.0".into(),
            backbone: "builtin".into(),
            precision: "f32".into(),
            cpus: None,
            full_size: None,
            seconds,
            warmup: 1.0,
            pairs: 3,
            seed: 1,
        }
    }

    #[test]
    fn a_run_goes_on_with_what_was_measured_under_the_same_conditions() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("gates.json");
        let pair = Pair {
            a: 99.0,
            b: 100.0,
            errors: 0,
        };
        let mut record = Record::open(Some(&path), conditions(8.0)).unwrap();
        record.add(Gate::Tasks64, Ok(vec![pair])).unwrap();
        record.add(Gate::Flood, Err("no server".into())).unwrap();
        let mut again = Record::open(Some(&path), conditions(8.0)).unwrap();
        assert_eq!(again.report, record.report);
        // What could not be measured is tried again, in place of the old line.
        assert!(again.has(Gate::Tasks64) && !again.has(Gate::Flood));
        again.add(Gate::Flood, Ok(vec![pair])).unwrap();
        assert_eq!(again.report.gates.len(), 2);
        let other = Record::open(Some(&path), conditions(9.0));
        assert!(matches!(other, Err(Error::Usage(_))), "{other:?}");
        let fewer = Conditions {
            pairs: 1,
            ..conditions(8.0)
        };
        let fewer = Record::open(Some(&path), fewer);
        assert!(matches!(fewer, Err(Error::Usage(_))), "{fewer:?}");
        // A file that does not say how many pairs were asked for is of other conditions, too.
        let mut stored: serde_json::Value =
            serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        stored.as_object_mut().unwrap().remove("pairs").unwrap();
        fs::write(&path, stored.to_string()).unwrap();
        let silent = Record::open(Some(&path), conditions(8.0));
        assert!(matches!(silent, Err(Error::Usage(_))), "{silent:?}");
        fs::write(&path, "{").unwrap();
        let damaged = Record::open(Some(&path), conditions(8.0));
        assert!(matches!(damaged, Err(Error::Read { .. })), "{damaged:?}");
    }
}
