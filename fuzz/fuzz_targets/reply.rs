//! Reads arbitrary bytes as a worker's reply, as the server does.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| frameshift::video::fuzzing::reply(data));
