//! Selects frames from an arbitrary number of frames.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| frameshift::video::fuzzing::sampling(data));
