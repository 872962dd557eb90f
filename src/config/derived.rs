//! The values in force of settings that were left to the machine.

use super::Config;
use super::units::ByteSize;
use crate::model;

impl Config {
    /// Keys that may be unset, each with the value in force as TOML: numbers of cores and shares of the memory.
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
            ("message_memory", bytes(self.rpc.limits.message_memory)),
            ("upload_memory", bytes(self.rpc.limits.upload_memory)),
        ]
    }
}
