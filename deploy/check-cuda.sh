#!/usr/bin/env bash
# The checks of `make check-cuda`: the CUDA path without a GPU. nvcc comes from NVCC, PATH or deploy/setup.sh --cuda; without it the kernels are not compiled
# for GPUs, which is said, and an error with FRAMESHIFT_REQUIRE_NVCC=1.
set -euo pipefail
cd "$(dirname "$0")/.."
phase() { deploy/phase.sh "$@"; }

own="${FRAMESHIFT_CUDA:-$HOME/.cache/frameshift-cuda}/nvidia/cu13/bin/nvcc"
if [ -z "${NVCC:-}" ] && ! command -v nvcc >/dev/null 2>&1 && [ -x "$own" ]; then
  export NVCC="$own"
fi
if "${NVCC:-nvcc}" --version >/dev/null 2>&1; then
  export FRAMESHIFT_REQUIRE_NVCC=1
elif [ "${FRAMESHIFT_REQUIRE_NVCC:-}" = 1 ]; then
  echo "check-cuda: nvcc is missing: run deploy/setup.sh --cuda" >&2
  exit 1
else
  echo "== nvcc: not installed; the kernels are tested as C++, and not compiled for GPUs (deploy/setup.sh --cuda)"
fi
phase "clippy with cuda" cargo clippy --locked --workspace --all-targets --features cuda -- -D warnings
phase "build with cuda" cargo build --locked --features cuda

# Runs tests by a filter of nextest, or without it by parts of their names and one after another: they share the device and its settings.
tests() {
  local name=$1 filter=$2
  shift 2
  if cargo nextest --version >/dev/null 2>&1; then
    phase "$name" cargo nextest run --locked --workspace --features cuda --no-fail-fast -E "$filter"
  else
    phase "$name" cargo test --locked --workspace --features cuda --no-fail-fast --lib --test it -- --test-threads 1 "$@"
  fi
}

# Builds the emulated device, and checks the kernels and the whole program on it.
tests "kernels and program on the emulated device" 'binary(it) & test(/^cuda_/)' cuda_
# The program and the model load the emulated libraries in place of NVIDIA's.
device="$(realpath "${CARGO_TARGET_DIR:-target}")/tmp/emulated/lib"
if [ -e "$device/libcuda.so" ]; then
  export LD_LIBRARY_PATH="$device${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}" FRAMESHIFT_TEST_DEVICE=cuda
  tests "device layer and operations on the emulated device" 'package(frameshift-model) & test(/ops::(cuda|place)/)' ops::cuda ops::place
else
  echo "== the emulated device: not built, because there is no g++"
fi
