//! Most memory that the server may use, part by part: the sum that `serve` prints and compares with the available memory, and the same of a GPU.
//!
//! Invariant: every part that a caller, a file or a job can make grow is limited by a budget that has a row here.

use std::fmt;

use crate::config::units::ByteSize;
use crate::config::{Config, machine};
use crate::registry;
use crate::rpc::{ADMIN_CONNECTIONS, ADMIN_MEMORY, CONNECTION_WINDOW};
use crate::serving::windows::WINDOW_BYTES;

/// Code, stacks, the database's page cache, and the unused memory that the allocator may keep (`upkeep::give_back`).
const PROGRAM: u64 = 192 << 20;

/// What a job knows of 250,000 videos: 32 bytes of each, and three times that while the list grows.
const EXAMPLES: u64 = 24 << 20;

/// Memory of the host through which a GPU's copies go.
const STAGING: u64 = 256 << 20;

/// A part of the memory and how large it may become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// Use of the memory, as `serve` prints it.
    pub what: &'static str,
    /// Keys of the settings that limit the part; empty when none does.
    pub settings: &'static str,
    /// Largest size of the part in bytes.
    pub bytes: u64,
    /// Whether the part is of what the model computes with, which lies in a GPU's memory where there is one.
    pub is_computed_with: bool,
}

/// A part of the host's memory.
fn part(what: &'static str, settings: &'static str, bytes: u64) -> Part {
    Part {
        what,
        settings,
        bytes,
        is_computed_with: false,
    }
}

/// A part of what the model computes with.
fn computed(what: &'static str, settings: &'static str, bytes: u64) -> Part {
    Part {
        is_computed_with: true,
        ..part(what, settings, bytes)
    }
}

/// A sum of parts, and the memory that they are in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Sum {
    bytes: u64,
    available: Option<u64>,
}

impl Sum {
    fn is_too_much(self) -> bool {
        self.available.is_some_and(|bytes| self.bytes > bytes)
    }
}

/// All parts, and the memory that this process may use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Budgets {
    /// The parts, each with its largest size.
    pub parts: Vec<Part>,
    /// Memory of the machine in bytes, or the limit of the process's control group; `None` when the system does not report it.
    pub available: Option<u64>,
    /// Memory of the GPU in bytes; `None` when the model computes on the processor.
    pub device: Option<u64>,
}

impl Budgets {
    /// Returns the budgets of a configuration, with a backbone of `backbone` bytes, on a GPU of so many bytes or on the processor. A process that does not train, or
    /// does not serve, has nothing in the parts of jobs, or of calls.
    pub(super) fn of(config: &Config, backbone: u64, device: Option<u64>) -> Self {
        let limits = &config.rpc.limits;
        let [serves, trains] = [config.role.serves(), config.role.trains()].map(u64::from);
        let calls = |what, settings, bytes: u64| part(what, settings, bytes * serves);
        let jobs = config.jobs.runners as u64 * trains;
        let windows = config.rpc.connections as u64 * u64::from(CONNECTION_WINDOW);
        let workers = config.video.workers as u64;
        let mut parts = vec![
            computed("backbone", "backbone, precision", backbone),
            computed(
                "adapter sets",
                "adapter_memory",
                config.engine.residency_bytes,
            ),
            calls(
                "messages on their way in",
                "message_memory",
                limits.message_memory,
            ),
            calls("receive windows", "connections", windows),
            part(
                "administrators' API",
                "admin_listen",
                config.admin_listen.map_or(0, |_| {
                    ADMIN_MEMORY + ADMIN_CONNECTIONS as u64 * u64::from(CONNECTION_WINDOW)
                }),
            ),
            part("waiting clips", "queue_memory", config.engine.clip_bytes()),
            computed(
                "a batch's activations",
                "batch_memory",
                config.engine.batch_bytes,
            ),
            part(
                "tasks, versions in memory",
                "host_adapter_memory",
                config.registry.cache_bytes + config.registry.view_bytes + registry::TASK_BYTES,
            ),
            calls(
                "uploads, imports, exports",
                "upload_memory",
                limits.upload_memory,
            ),
            calls("live streams", "live_memory", limits.live_memory),
            computed(
                "training steps",
                "job_runners, step_memory",
                jobs.saturating_mul(config.jobs.step_bytes),
            ),
            part("examples of jobs", "job_runners", jobs * EXAMPLES),
            part(
                "decoded clips of jobs",
                "",
                config.jobs.clip_cache_bytes * trains,
            ),
            part(
                "video workers",
                "video_workers, video_memory",
                workers.saturating_mul(config.video.limits.memory),
            ),
            calls(
                "workers in long videos",
                "video_workers, video_memory",
                (config.video.parked() as u64).saturating_mul(config.video.limits.memory),
            ),
            calls("frames of windows", "", WINDOW_BYTES),
            part("program", "", PROGRAM),
        ];
        if device.is_some() {
            parts.push(part("copies to and from the GPU", "", STAGING));
        }
        Self {
            parts,
            available: machine::memory(),
            device,
        }
    }

    /// Returns the parts in the host's memory, or those in the GPU's.
    fn parts_on(&self, is_device: bool) -> impl Iterator<Item = &Part> {
        let on_device = |part: &Part| self.device.is_some() && part.is_computed_with;
        let parts = self.parts.iter();
        parts.filter(move |part| on_device(part) == is_device)
    }

    fn sum_on(&self, is_device: bool) -> Sum {
        let bytes = self.parts_on(is_device).map(|part| part.bytes);
        Sum {
            bytes: bytes.fold(0, u64::saturating_add),
            available: match is_device {
                true => self.device,
                false => self.available,
            },
        }
    }

    /// Returns the sum of the parts in the host's memory in bytes.
    pub fn sum(&self) -> u64 {
        self.sum_on(false).bytes
    }

    /// Returns whether the parts together may exceed the available memory, of the host or of the GPU.
    pub fn is_too_much(&self) -> bool {
        self.sum_on(false).is_too_much() || self.sum_on(true).is_too_much()
    }

    /// Logs a warning when the parts together may exceed the available memory, of the host or of the GPU.
    pub(super) fn check(&self) {
        for (sum, of) in [(self.sum_on(false), "host"), (self.sum_on(true), "GPU")] {
            if sum.is_too_much() {
                tracing::warn!(
                    of,
                    most = %Rounded(sum.bytes),
                    available = %Rounded(sum.available.unwrap_or_default()),
                    "the budgets add up to more memory than is available; docs/operate.md says what to lower"
                );
            }
        }
    }
}

impl fmt::Display for Budgets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(f, "memory          ", false)?;
        if self.device.is_some() {
            writeln!(f)?;
            self.write(f, "GPU's memory    ", true)?;
        }
        Ok(())
    }
}

impl Budgets {
    /// Writes a sum and its parts.
    fn write(&self, f: &mut fmt::Formatter<'_>, what: &str, is_device: bool) -> fmt::Result {
        let sum = self.sum_on(is_device);
        write!(f, "{what}{} at most", Rounded(sum.bytes))?;
        if let Some(available) = sum.available {
            let verdict = if sum.is_too_much() {
                ", which is less"
            } else {
                ""
            };
            write!(f, " of {}{verdict}", Rounded(available))?;
        }
        for part in self.parts_on(is_device) {
            let bytes = Rounded(part.bytes);
            write!(f, "\n  {:<24} {bytes:>8}", part.what)?;
            if !part.settings.is_empty() {
                write!(f, " ({})", part.settings)?;
            }
        }
        Ok(())
    }
}

/// Number of bytes that prints rounded: to a tenth of a GiB, or to whole MiB.
struct Rounded(u64);

impl fmt::Display for Rounded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self.0 {
            bytes if bytes >= 1 << 30 => format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30)),
            bytes if bytes >= 1 << 20 => format!("{} MiB", bytes >> 20),
            bytes => ByteSize(bytes).to_string(),
        };
        f.pad(&text)
    }
}

#[cfg(test)]
mod tests;
