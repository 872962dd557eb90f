//! The integration tests, in one binary.
#![allow(clippy::disallowed_methods, missing_docs)]
mod shared;
mod tidy;
