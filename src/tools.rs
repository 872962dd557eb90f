//! Command-line work on local files, without a server.

pub mod inspect;
pub mod pretrain;
