//! Reads arbitrary bytes as a page token.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| frameshift::tenancy::pages::fuzz(data));
