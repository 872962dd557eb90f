//! Reads arbitrary bytes as a pickle outside of an archive.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| frameshift::model::load::fuzzing::pickle(data));
