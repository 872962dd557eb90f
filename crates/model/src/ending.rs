//! The end of a process whose threads nobody can join: those that compute, those of a driver, those of databases.
#![allow(unsafe_code)]

use std::io::Write;

/// Ends the process with an exit code, once standard output is flushed. What C libraries registered for the exit is not run: they would take their own state
/// down beside threads that still use it, and wait for a lock of the loader that a driver which never came up still holds.
pub fn leave(code: u8) -> ! {
    // A reader that has gone is no error.
    let _ = std::io::stdout().flush();
    // SAFETY: ends the process at once; no code of it runs afterwards.
    unsafe { libc::_exit(code.into()) }
}
