#!/usr/bin/env bash
# The checks of `make test` and `make lint`; every phase prints how many seconds it took.
#   test.sh        everything
#   test.sh lint   format, lints, licences and the API's lint only
set -euo pipefail
cd "$(dirname "$0")/.."
phase() { deploy/phase.sh "$@"; }
# One build for all: the CUDA path needs neither a GPU nor nvcc to be compiled and tested, and the program loads NVIDIA's libraries only when they are there.
with=(--locked --features cuda)

phase "format" cargo fmt --all --check
# Every clippy release adds lints. Warnings of a release newer than the one that this code was last checked with are printed, but do not fail.
checked=99
clippy=$(cargo clippy --version | sed -n 's/^clippy 0\.1\.\([0-9]*\).*/\1/p')
if [ "${clippy:-0}" -le "$checked" ]; then
  phase "clippy" cargo clippy "${with[@]}" --all-targets -- -D warnings
  # What users build: without the CUDA path.
  phase "clippy of the default features" cargo clippy --locked -- -D warnings
  # The embedded server alone: without PostgreSQL, buckets and whatever needs an HTTP client.
  phase "clippy without features" cargo clippy --locked --no-default-features -- -D warnings
else
  phase "clippy 1.$clippy, newer than 1.$checked: warnings do not fail" cargo clippy "${with[@]}" --all-targets
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

# nextest NAME ARGUMENTS …: a phase of tests. `.config/nextest.toml` runs some of them a second time when they fail; those that passed then are remembered.
flaky=()
nextest() {
  local name=$1 status=0 test report=target/nextest/default/junit.xml
  shift
  rm -f "$report"
  phase "$name" cargo nextest run "${with[@]}" --no-fail-fast "$@" || status=$?
  while read -r test; do flaky+=("$test"); done < <(
    awk -F'"' '/<testcase name=/ { name = $2 } /<flakyFailure / { print name }' "$report" 2>/dev/null
  )
  return $status
}
say_flaky() {
  [ ${#flaky[@]} = 0 ] && return
  echo "== flaky: these tests failed once and passed when they were run again; if the machine did not stand still, each has a race to be mended"
  printf '   %s\n' "${flaky[@]}"
}
trap say_flaky EXIT

if cargo nextest --version >/dev/null 2>&1; then
  nextest "tests"
else
  phase "tests" cargo test "${with[@]}" --no-fail-fast --lib --bins --tests
fi

# The tests of the kernels, of the model against the reference and of a server run again on every lesser instruction set of this machine: FRAMESHIFT_CPU
# limits the test binaries, and servers in separate processes, to it. The tests above used the best set; tests with a full-size model run only there.
lesser() {
  grep -qw amx_tile /proc/cpuinfo 2>/dev/null && echo avx512
  grep -qw avx512f /proc/cpuinfo 2>/dev/null && echo avx2
  case "$(uname -m)" in x86_64 | aarch64) echo portable ;; esac
}
for cpu in $(lesser); do
  if cargo nextest --version >/dev/null 2>&1; then
    FRAMESHIFT_CPU=$cpu nextest "tests as on a CPU with $cpu" -E \
      '((package(frameshift-model) & test(/^ops::/)) + (binary(it) & test(/^(cpu|model|golden_model|golden_backbones|model_precision|rpc_server)::/))) - test(full_size)'
  else
    FRAMESHIFT_CPU=$cpu phase "kernels as on a CPU with $cpu" cargo test "${with[@]}" --no-fail-fast --lib -p frameshift-model ops::
    FRAMESHIFT_CPU=$cpu phase "model and server as on a CPU with $cpu" cargo test "${with[@]}" --no-fail-fast --test it -- \
      cpu:: model:: golden_model:: golden_backbones:: model_precision:: rpc_server:: --skip full_size
  fi
done
# Without the matrix unit its kernels run in software, on a CPU that has what they need of AVX-512.
if ! grep -qw amx_tile /proc/cpuinfo 2>/dev/null && grep -qw avx512_bf16 /proc/cpuinfo 2>/dev/null; then
  FRAMESHIFT_CPU=amx phase "kernels as on a CPU with amx, emulated" cargo test "${with[@]}" --no-fail-fast --lib -p frameshift-model ops::
fi
phase "documentation tests" cargo test "${with[@]}" --doc
