//! A decoder with real worker processes, for tests.

use std::path::PathBuf;

use bytes::Bytes;
use frameshift::ids::TenantId;
use frameshift::video::{Config, Decoder, Input};

/// Returns the configuration of a decoder whose workers run the program's hidden subcommand.
pub(crate) fn config() -> Config {
    Config::new(PathBuf::from(env!("CARGO_BIN_EXE_frameshift")))
}

pub(crate) async fn decoder(config: Config) -> Decoder {
    Decoder::start(config).await.expect("workers start")
}

pub(crate) fn tenant(name: &str) -> TenantId {
    name.parse().expect("a tenant's name")
}

pub(crate) fn file(path: &std::path::Path) -> Input {
    let bytes = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    Input::Bytes(Bytes::from(bytes))
}
