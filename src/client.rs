//! The command-line client of the public API.
