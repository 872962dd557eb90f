//! Resources that processes hold: memory, descriptors, children.

use std::fs;

/// Resources of a process.
#[derive(Debug, Clone, Copy)]
#[allow(dead_code)]
pub(crate) struct Usage {
    /// Resident memory in KiB.
    pub(crate) resident: u64,
    /// Peak of the resident memory in KiB.
    pub(crate) peak: u64,
    /// Number of open descriptors; `None` when they cannot be read.
    pub(crate) descriptors: Option<usize>,
}

impl Usage {
    /// Returns the resources of a running process.
    pub(crate) fn of(pid: u32) -> Self {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
        let value = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name));
            let number = line.and_then(|line| line.split_whitespace().nth(1));
            number.map_or(0, |number| number.parse().expect("a number"))
        };
        Self {
            resident: value("VmRSS:"),
            peak: value("VmHWM:"),
            descriptors: fs::read_dir(format!("/proc/{pid}/fd"))
                .ok()
                .map(Iterator::count),
        }
    }

    /// Asserts that no more is held than before, except what an allocator keeps and what a starting worker needs.
    pub(crate) fn assert_kept(&self, after: &Self, what: &str) {
        let grown = after.resident.saturating_sub(self.resident);
        assert!(grown < 48 << 10, "{what}: {grown} KiB more");
        if let (Some(before), Some(after)) = (self.descriptors, after.descriptors) {
            assert!(
                after <= before + 6,
                "{what}: {before} descriptors, then {after}"
            );
        }
    }
}

/// Returns the children of a process, with their states; `Z` is a child that ended and was not waited for.
pub(crate) fn children(parent: u32) -> Vec<(u32, char)> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").expect("processes") {
        let name = entry.expect("an entry").file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else {
            continue;
        };
        // The program's name is in brackets and may contain anything.
        let mut fields = stat.rsplit(") ").next().unwrap_or_default().split(' ');
        let state = fields.next().and_then(|state| state.chars().next());
        if let (Some(state), Some(own)) = (state, fields.next())
            && own.parse() == Ok(parent)
        {
            found.push((pid, state));
        }
    }
    found
}
