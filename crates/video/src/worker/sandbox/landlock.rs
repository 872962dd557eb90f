//! Landlock: the process gives up every right to paths, ports, signals and sockets that the kernel's version of it knows, with no exception.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// `landlock_create_ruleset`'s flag that asks for the version.
const VERSION: libc::c_uint = 1;

/// The kernel's `landlock_ruleset_attr`; earlier versions know the beginning of it.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Attributes {
    files: u64,
    ports: u64,
    scopes: u64,
}

/// Rights of a version, and how many bytes of the attributes it knows. Versions after the newest of the table have at least its rights.
const VERSIONS: [(i64, Attributes, usize); 6] = {
    const fn version(
        number: i64,
        (files, ports, scopes): (u32, u32, u32),
        bytes: usize,
    ) -> (i64, Attributes, usize) {
        // So many rights, from the lowest bit on.
        let attributes = Attributes {
            files: (1 << files) - 1,
            ports: (1 << ports) - 1,
            scopes: (1 << scopes) - 1,
        };
        (number, attributes, bytes)
    }
    [
        // Execute, read, write, list, remove and make all kinds of files.
        version(1, (13, 0, 0), 8),
        // Link and rename across folders.
        version(2, (14, 0, 0), 8),
        // Truncate.
        version(3, (15, 0, 0), 8),
        // Bind and connect TCP.
        version(4, (15, 2, 0), 16),
        // Device ioctls.
        version(5, (16, 2, 0), 16),
        // Abstract Unix sockets and signals to outside.
        version(6, (16, 2, 2), 24),
    ]
};

fn rights(version: i64) -> Option<(Attributes, usize)> {
    let known = VERSIONS.iter().rev().find(|known| known.0 <= version)?;
    Some((known.1, known.2))
}

/// Gives the rights up; `false` when the kernel has no Landlock. `no_new_privs` must be set.
///
/// # Errors
/// When the kernel has it but refuses.
pub(super) fn apply() -> io::Result<bool> {
    let none: *const Attributes = std::ptr::null();
    // SAFETY: with this flag the kernel wants no attributes, and only returns a number.
    let version =
        unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, none, 0_usize, VERSION) };
    // ENOSYS: not built in, or a container's profile hides it. EOPNOTSUPP: switched off at boot.
    let Some((attributes, bytes)) = rights(version) else {
        return Ok(false);
    };
    // SAFETY: the attributes are readable for at least `bytes`; the result, when there is one, is a descriptor that nobody owns yet.
    let ruleset = unsafe {
        let made = libc::syscall(
            libc::SYS_landlock_create_ruleset,
            &raw const attributes,
            bytes,
            0,
        );
        match libc::c_int::try_from(made) {
            Ok(made) if made >= 0 => OwnedFd::from_raw_fd(made),
            Ok(_) | Err(_) => return Err(io::Error::last_os_error()),
        }
    };
    // SAFETY: takes numbers only.
    let done = unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset.as_raw_fd(), 0) };
    if done < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_version_gets_its_own_rights() {
        assert_eq!(rights(-1), None);
        assert_eq!(rights(0), None);
        let (first, bytes) = rights(1).unwrap();
        assert_eq!((first.files, first.ports, bytes), (0x1fff, 0, 8));
        let (fourth, bytes) = rights(4).unwrap();
        assert_eq!((fourth.files, fourth.ports, bytes), (0x7fff, 3, 16));
        let (newest, bytes) = rights(6).unwrap();
        assert_eq!((newest.files, newest.scopes, bytes), (0xffff, 3, 24));
        assert_eq!(rights(99), Some((newest, bytes)));
    }
}
