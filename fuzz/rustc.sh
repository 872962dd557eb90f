#!/bin/sh
# A RUSTC_WRAPPER that builds this project's crates as cargo-fuzz builds every crate: with coverage for libFuzzer, the address sanitizer, and assertions.
# Dependencies are built as usual. No nightly compiler is needed, since RUSTC_BOOTSTRAP is set for these crates only.
case " $* " in
*" --crate-name frameshift "* | *" fuzz_targets/"*)
  exec env RUSTC_BOOTSTRAP=1 "$@" --cfg fuzzing -Zsanitizer=address -Cdebug-assertions -Coverflow-checks -Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares
  ;;
esac
exec "$@"
