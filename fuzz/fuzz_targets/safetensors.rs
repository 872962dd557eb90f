//! Any bytes as a safetensors file; what is read must lie inside of the bytes.
#![no_main]

use frameshift::model::load::Archive;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Ok(archive) = Archive::in_memory("fuzzed.safetensors", data.to_vec()) {
        for entry in &archive.header().entries {
            std::hint::black_box(archive.data(entry));
        }
    }
});
