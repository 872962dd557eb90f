#!/bin/sh
# A RUSTC_WRAPPER that builds our own crates as cargo-fuzz builds all: coverage for libFuzzer, the address sanitizer, and assertions. Dependencies stay as
# they are. It needs no nightly compiler, since only these crates are told that they may use its flags.
case " $* " in
*" --crate-name frameshift "* | *" fuzz_targets/"*)
  exec env RUSTC_BOOTSTRAP=1 "$@" --cfg fuzzing -Zsanitizer=address -Cdebug-assertions -Coverflow-checks -Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares
  ;;
esac
exec "$@"
