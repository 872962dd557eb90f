//! Which frames are selected of any number of frames.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| frameshift::video::fuzzing::sampling(data));
