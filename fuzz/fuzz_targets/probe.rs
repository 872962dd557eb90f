//! Reads an arbitrary file with demuxer, packet index and decoder, unconfined.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| frameshift::video::fuzzing::probe(data));
