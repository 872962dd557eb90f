//! Any bytes as a file of adapters, which goes out and comes in again.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| frameshift::model::load::fuzzing::adapters(data));
