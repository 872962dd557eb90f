//! Versions' files in memory, bounded by bytes.
use crate::ids::VersionRef;
pub(super) struct Cache {}
impl Cache {
    pub(super) fn new(_bytes: u64) -> Self {
        Self {}
    }
    pub(super) fn remove(&self, _version: &VersionRef) {}
}
