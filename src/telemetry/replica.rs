//! The name of this process among the servers that share a database.
//!
//! Invariant: no two processes have one name, also on one machine and after a restart.

use std::fs;

/// The longest part of a name that is the machine's.
const MACHINE: usize = 63;

/// A new name: the machine's, and a suffix that nothing else has.
pub fn name() -> String {
    let machine = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    // Names show in logs and records, so that they are of plain letters.
    let is_plain = |letter: &char| letter.is_ascii_alphanumeric() || "-.".contains(*letter);
    let machine: String = machine
        .trim()
        .chars()
        .filter(is_plain)
        .take(MACHINE)
        .collect();
    // The end of such an id is random, its beginning the time.
    let suffix = uuid::Uuid::now_v7().simple().to_string();
    format!("{machine}-{}", suffix.get(24..).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_process_has_a_name_of_its_own() {
        let (one, other) = (name(), name());
        assert_ne!(one, other);
        assert!(one.len() <= MACHINE + 9 && one.is_ascii(), "{one}");
    }
}
