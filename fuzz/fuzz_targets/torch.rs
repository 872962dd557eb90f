//! Reads arbitrary bytes as a PyTorch file: zip archive, pickle and views of storages together.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| frameshift::model::load::fuzzing::archive(data));
