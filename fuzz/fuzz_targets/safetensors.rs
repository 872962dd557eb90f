//! Reads arbitrary bytes as a safetensors file: its header, and the ranges of its tensors.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| frameshift::model::load::fuzzing::archive(data));
