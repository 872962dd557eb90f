//! Reads arbitrary bytes as a value of the header `authorization`, repeated where there are several lines.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| frameshift::rpc::fuzz_header(data));
