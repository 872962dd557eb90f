//! Where and how a run was measured: processor, cores, instructions, date, commit, command.
//!
//! Invariant: what the system does not tell is shown as unknown, never guessed.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::telemetry;

/// Instruction sets that the server's kernels use where they exist, by the names that Linux gives them.
const INSTRUCTIONS: &[&str] = &[
    "avx2",
    "fma",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "amx_int8",
    "amx_bf16",
    "asimd",
];

/// The machine and the circumstances of a run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Machine {
    /// The processor's name.
    pub(crate) processor: String,
    /// Logical cores that this process may use.
    pub(crate) cores: usize,
    /// Instruction sets of [`INSTRUCTIONS`] that the processor has.
    pub(crate) instructions: Vec<&'static str>,
    /// The kernel's name and release, and the processor's architecture.
    pub(crate) system: String,
    /// Time at which the run began, in UTC.
    pub(crate) date: String,
    /// The commit of the source folder that the demo was run in.
    pub(crate) commit: String,
    /// The command line.
    pub(crate) command: String,
}

impl Machine {
    /// Asks the system.
    pub(crate) fn here() -> Self {
        let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let kernel = |name: &str| {
            let text = fs::read_to_string(format!("/proc/sys/kernel/{name}"));
            text.map_or_else(|_| unknown(), |text| text.trim().to_owned())
        };
        Self {
            processor: field(&cpu, &["model name", "CPU part"]).unwrap_or_else(unknown),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            instructions: instructions(&cpu),
            system: format!(
                "{} {} {}",
                kernel("ostype"),
                kernel("osrelease"),
                std::env::consts::ARCH
            ),
            date: humantime::format_rfc3339_seconds(telemetry::now()).to_string(),
            commit: commit().unwrap_or_else(unknown),
            command: command(),
        }
    }

    /// Names and values for people.
    pub(super) fn facts(&self) -> Vec<(String, String)> {
        let instructions = match self.instructions.as_slice() {
            [] => unknown(),
            some => some.join(", "),
        };
        [
            ("processor", self.processor.clone()),
            ("cores", self.cores.to_string()),
            ("instructions", instructions),
            ("system", self.system.clone()),
            ("date", self.date.clone()),
            ("commit", self.commit.clone()),
            ("command", self.command.clone()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into()
    }
}

/// The system's load average of the last minute; `None` where the system does not tell.
pub(super) fn load() -> Option<f64> {
    let text = fs::read_to_string("/proc/loadavg").ok()?;
    text.split_whitespace().next()?.parse().ok()
}

fn unknown() -> String {
    "unknown".to_owned()
}

/// The value of the first of these names in `/proc/cpuinfo`.
fn field(cpu: &str, names: &[&str]) -> Option<String> {
    let values = names.iter().filter_map(|name| {
        let mut lines = cpu.lines().filter_map(|line| line.split_once(':'));
        let (_, value) = lines.find(|(key, _)| key.trim() == *name)?;
        Some(value.trim().to_owned())
    });
    values.into_iter().next()
}

fn instructions(cpu: &str) -> Vec<&'static str> {
    let flags = field(cpu, &["flags", "Features"]).unwrap_or_default();
    let has = |name: &&&str| flags.split_whitespace().any(|flag| flag == **name);
    INSTRUCTIONS.iter().filter(has).copied().collect()
}

/// The commit of the current folder when it is this program's source, with `-dirty` when files differ from it.
fn commit() -> Option<String> {
    let manifest = fs::read_to_string("Cargo.toml").ok()?;
    if !manifest.contains("name = \"frameshift\"") || !Path::new(".git").exists() {
        return None;
    }
    let arguments = [
        "describe",
        "--always",
        "--dirty",
        "--abbrev=12",
        "--exclude=*",
    ];
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let text = text.trim();
    (output.status.success() && !text.is_empty()).then(|| text.to_owned())
}

fn command() -> String {
    let words = std::env::args_os().map(|word| word.to_string_lossy().into_owned());
    let program = |word: String| match word.rsplit('/').next() {
        Some(name) => name.to_owned(),
        None => word,
    };
    let mut words: Vec<String> = words.collect();
    if let Some(first) = words.first_mut() {
        *first = program(std::mem::take(first));
    }
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_processor_is_read_from_what_linux_says() {
        let cpu = "processor\t: 0\nmodel name\t: A CPU @ 2 GHz\nflags\t\t: fpu avx2 fma avx512f\n";
        assert_eq!(
            field(cpu, &["model name"]),
            Some("A CPU @ 2 GHz".to_owned())
        );
        assert_eq!(instructions(cpu), ["avx2", "fma", "avx512f"]);
        assert_eq!(instructions("Features\t: fp asimd evtstrm\n"), ["asimd"]);
        assert!(instructions("").is_empty());
    }

    #[test]
    fn a_run_says_where_and_when_it_was() {
        let machine = Machine::here();
        assert!(machine.cores > 0 && !machine.command.is_empty());
        assert!(machine.date.ends_with('Z'), "{}", machine.date);
        assert_eq!(machine.facts().len(), 7);
    }
}
