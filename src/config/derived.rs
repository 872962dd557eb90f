//! The values in force of settings that were left to the machine.

use super::settings::Settings;
use super::units::ByteSize;
use super::{Config, machine};
use crate::model;

/// Least memory of a batch, and of waiting clips, when it is a share: the largest clip that can be decoded takes this much.
const LEAST: u64 = 256 << 20;
/// Memory that is assumed of a machine that does not report it.
const UNKNOWN: u64 = 4 << 30;
/// Memory for files of versions beside a GPU. On the CPU there is none: a file in memory would be its set a second time.
const FILES: u64 = 64 << 20;

/// Which sizes of what the model computes with were left to the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Left {
    /// Whether the memory of a batch was.
    pub batch_memory: bool,
    /// Whether the memory of a training step was.
    pub step_memory: bool,
    /// Whether the memory for files of versions was.
    pub host_adapter_memory: bool,
}

impl Left {
    pub(super) fn of(settings: &Settings) -> Self {
        Self {
            batch_memory: settings.batch_memory.is_none(),
            step_memory: settings.step_memory.is_none(),
            host_adapter_memory: settings.host_adapter_memory.is_none(),
        }
    }
}

/// Returns the given size, else an eighth of the memory that this process may use. The frames of waiting clips and a batch's activations take a
/// quarter of it together, which leaves room for weights, adapter sets, training and video workers.
pub(super) fn share(given: Option<ByteSize>) -> u64 {
    given.map_or_else(|| share_of(machine::memory().unwrap_or(0)), |given| given.0)
}

fn share_of(memory: u64) -> u64 {
    (memory / 8).max(LEAST)
}

/// Returns the memory limit of one job's training in bytes.
pub(super) fn step_bytes(settings: &Settings) -> u64 {
    let share = step_share_of(
        machine::memory().unwrap_or(UNKNOWN),
        settings.job_runners.get(),
    );
    settings.step_memory.map_or(share, |set| set.0)
}

fn step_share_of(memory: u64, runners: usize) -> u64 {
    memory / 4 / runners.max(1) as u64
}

impl Config {
    /// Chooses what was left to the machine, and is computed with, by the memory of a device that has one of its own.
    pub fn compute_in(&mut self, memory: u64) {
        if self.left.batch_memory {
            self.engine.batch_bytes = share_of(memory);
        }
        if self.left.step_memory {
            self.jobs.step_bytes = step_share_of(memory, self.jobs.runners);
        }
        if self.left.host_adapter_memory {
            self.registry.cache_bytes = FILES;
        }
    }

    /// Keys that may be unset, each with the value in force as TOML: numbers of cores and sizes of memory.
    pub fn derived(&self) -> Vec<(&'static str, String)> {
        let threads = self
            .compute_threads
            .map_or_else(model::physical_cores, usize::from);
        let bytes = |bytes: u64| format!("\"{}\"", ByteSize(bytes));
        vec![
            ("compute_threads", threads.to_string()),
            ("video_workers", self.video.workers.to_string()),
            ("queue_memory", bytes(self.engine.queue_bytes)),
            ("batch_memory", bytes(self.engine.batch_bytes)),
            ("step_memory", bytes(self.jobs.step_bytes)),
            ("host_adapter_memory", bytes(self.registry.cache_bytes)),
            ("message_memory", bytes(self.rpc.limits.message_memory)),
            ("upload_memory", bytes(self.rpc.limits.upload_memory)),
        ]
    }
}
