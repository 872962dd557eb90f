//! Reads arbitrary bytes as the directory of a zip archive.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| frameshift::model::load::fuzzing::zip(data));
