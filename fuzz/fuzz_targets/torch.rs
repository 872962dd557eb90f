//! Any bytes as a PyTorch file; what is read must lie inside of the bytes.
#![no_main]

use frameshift::model::load::Archive;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Ok(archive) = Archive::in_memory("fuzzed.pt", data.to_vec()) {
        for entry in &archive.header().entries {
            std::hint::black_box(archive.data(entry));
        }
    }
});
