//! Files that commands write beside their place and rename when they are complete.
//!
//! Invariant: a file has its name only when it is whole and on the disk.

use std::io::{self, ErrorKind};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use tempfile::NamedTempFile;

use super::Error;

/// Begins a file in the folder of the one that it is to be.
///
/// # Errors
/// When the folder cannot be written to.
pub(super) fn beside(out: &Path) -> io::Result<NamedTempFile> {
    let folder = match out.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    tempfile::Builder::new()
        .prefix(".frameshift-")
        .permissions(std::fs::Permissions::from_mode(0o666))
        .tempfile_in(folder)
}

/// Gives a file its name; one of that name is replaced.
///
/// # Errors
/// When the file cannot be synced or renamed; it is removed then.
pub(super) fn named(file: NamedTempFile, out: &Path) -> io::Result<()> {
    file.as_file().sync_all()?;
    file.persist(out).map_err(|error| error.error)?;
    Ok(())
}

/// The error of a file that cannot be written, by the name that it is to have.
pub(super) fn failed(out: &Path, source: io::Error) -> Error {
    let path = out.to_owned();
    // Without the system's number it is the temporary file's error, whose text has that file's name.
    let source = match (source.raw_os_error(), source.kind()) {
        (None, kind) if kind != ErrorKind::Other => kind.into(),
        _ => source,
    };
    Error::Write { path, source }
}
