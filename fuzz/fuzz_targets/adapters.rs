//! Imports arbitrary bytes as an adapter file, then exports it and imports the export.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| frameshift::model::load::fuzzing::adapters(data));
