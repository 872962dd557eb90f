//! Any bytes as a pickle, without an archive around it.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| frameshift::model::load::fuzzing::pickle(data));
