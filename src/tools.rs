//! Command-line work on local files, without a server.

pub mod bench_compute;
pub mod convert;
pub mod inspect;
pub mod pretrain;
pub mod video;
