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
headers="${FRAMESHIFT_CUTLASS:-${FRAMESHIFT_CUDA:-$HOME/.cache/frameshift-cuda}/cutlass_library/source}"
if [ -e "$headers/include/cutlass/cutlass.h" ] && "${NVCC:-nvcc}" --version >/dev/null 2>&1; then
  # Compiles its products for Hopper, and fails when ptxas serialises their matrix instructions.
  FRAMESHIFT_CUTLASS=$headers phase "build with cutlass" cargo build --locked --features cutlass
else
  echo "== CUTLASS: its headers or nvcc are not installed; its products are not compiled (deploy/setup.sh --cuda)"
fi

# Builds the emulated device, and checks the kernels and the whole program on it.
if cargo nextest --version >/dev/null 2>&1; then
  phase "kernels and program on the emulated device" cargo nextest run --locked --workspace --features cuda --no-fail-fast -E 'binary(it) & test(/^cuda_/)'
else
  phase "kernels and program on the emulated device" cargo test --locked --features cuda --no-fail-fast --test it -- --test-threads 1 cuda_
fi
deploy/check-emulated.sh
