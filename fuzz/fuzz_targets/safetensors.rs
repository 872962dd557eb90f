//! Any bytes as a safetensors file: its header, and where it puts tensors.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| frameshift::model::load::fuzzing::archive(data));
