//! What a worker that lies can make of the server's reader of its replies.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| frameshift::video::fuzzing::reply(data));
