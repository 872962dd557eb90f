//! The generated API, and its descriptors for reflection.
#![allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic)]

/// Package `frameshift.v1`.
pub mod v1 {
    tonic::include_proto!("frameshift.v1");
}

/// The encoded `FileDescriptorSet` of the API.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
