#!/usr/bin/env bash
# What `make test` and `make lint` run; every phase prints its seconds.
#   test.sh        everything
#   test.sh lint   format, lints, licences and the API's lint only
set -euo pipefail
cd "$(dirname "$0")/.."
phase() { deploy/phase.sh "$@"; }

phase "format" cargo fmt --check
# Every clippy brings new lints. Those of a newer one than this code was last checked with are shown, but do not fail a tree that nobody touched.
checked=99
clippy=$(cargo clippy --version | sed -n 's/^clippy 0\.1\.\([0-9]*\).*/\1/p')
if [ "${clippy:-0}" -le "$checked" ]; then
  phase "clippy" cargo clippy --locked --all-targets -- -D warnings
else
  phase "clippy 1.$clippy, newer than 1.$checked: warnings do not fail" cargo clippy --locked --all-targets
fi

if cargo deny --version >/dev/null 2>&1; then
  phase "cargo deny" cargo deny --locked check licenses bans sources
else
  echo "== cargo deny: not installed; the tests check licences, banned crates and sources, not advisories"
fi
if command -v buf >/dev/null 2>&1; then
  phase "buf lint" buf lint
else
  echo "== buf lint: not installed; the tests check that the API stays compatible, not its style"
fi
[ "${1:-}" = lint ] && exit 0

if cargo nextest --version >/dev/null 2>&1; then
  phase "tests" cargo nextest run --locked --no-fail-fast
else
  phase "tests" cargo test --locked --no-fail-fast --lib --bins --tests
fi

# The kernels, the model against the reference and a server once more on every lesser instruction set that this machine has: FRAMESHIFT_CPU makes
# the test binaries, and servers in processes of their own, compute as on a CPU whose best instructions are these. The tests above used the best;
# what works with a model of full size is left to them.
lesser() {
  grep -qw amx_tile /proc/cpuinfo 2>/dev/null && echo avx512
  grep -qw avx512f /proc/cpuinfo 2>/dev/null && echo avx2
  case "$(uname -m)" in x86_64 | aarch64) echo portable ;; esac
}
for cpu in $(lesser); do
  if cargo nextest --version >/dev/null 2>&1; then
    FRAMESHIFT_CPU=$cpu phase "tests as on a CPU with $cpu" cargo nextest run --locked --no-fail-fast \
      -E '(test(/^model::ops::/) + (binary(it) & test(/^(cpu|model|golden_model|golden_backbones|model_precision|rpc_server)::/))) - test(full_size)'
  else
    FRAMESHIFT_CPU=$cpu phase "kernels as on a CPU with $cpu" cargo test --locked --no-fail-fast --lib model::ops::
    FRAMESHIFT_CPU=$cpu phase "model and server as on a CPU with $cpu" cargo test --locked --no-fail-fast --test it -- \
      cpu:: model:: golden_model:: golden_backbones:: model_precision:: rpc_server:: --skip full_size
  fi
done
phase "documentation tests" cargo test --locked --doc
