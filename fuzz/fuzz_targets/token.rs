//! Reads arbitrary bytes as a bearer's token, and verifies it with a key whose private half nobody has.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| frameshift::tenancy::fuzz_token(data));
