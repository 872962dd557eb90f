//! Reads arbitrary text as an API key.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| frameshift::tenancy::key::fuzz(data));
