//! Reads arbitrary text as one of the JSON files beside a backbone's weights.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| frameshift::model::load::fuzzing::configuration(data));
