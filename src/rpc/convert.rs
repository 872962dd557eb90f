//! The API's messages to the domain's values and back. Whatever is out of range becomes a field violation.

use tonic::Status;

use super::status;
use crate::spec::Digest;

pub(super) mod access;
pub(super) mod evaluation;
pub(super) mod findings;
pub(super) mod names;
pub(super) mod records;
mod selection;
pub(super) mod spec;
pub(super) mod splits;
pub(super) mod sweeps;

/// A sha256 of 32 bytes; empty for none.
pub(super) fn sha256(bytes: &[u8], field: &str) -> Result<Option<Digest>, Status> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let digest = bytes.try_into().map_err(|_| {
        let problem = format!("expected 32 bytes, got {}", bytes.len());
        status::invalid(field, problem)
    })?;
    Ok(Some(Digest(digest)))
}
