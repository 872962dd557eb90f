#!/usr/bin/env bash
# Runs tests of the model, the engine, the trainer and the server on the emulated CUDA device (tests/emulated), which the tests `cuda_…` build: the same bodies as
# on the CPU, in the place that FRAMESHIFT_TEST_DEVICE names. Without g++ there is no such device, which is said.
set -euo pipefail
cd "$(dirname "$0")/.."

device="$(realpath "${CARGO_TARGET_DIR:-target}")/tmp/emulated/lib"
if [ ! -e "$device/libcuda.so" ]; then
  echo "== the emulated device: not built, because there is no g++"
  exit 0
fi
# The program and the model load the emulated libraries in place of NVIDIA's.
export LD_LIBRARY_PATH="$device${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}" FRAMESHIFT_TEST_DEVICE=cuda

# Runs tests by a filter of nextest, or without it by parts of their names and one after another: they share the device and its settings.
tests() {
  local name=$1 filter=$2
  shift 2
  if cargo nextest --version >/dev/null 2>&1; then
    deploy/phase.sh "$name" cargo nextest run --locked --workspace --features cuda --no-fail-fast -E "$filter"
  else
    deploy/phase.sh "$name" cargo test --locked --workspace --features cuda --no-fail-fast --lib --test it -- --test-threads 1 "$@"
  fi
}
tests "device layer and operations on the emulated device" 'package(frameshift-model) & test(/ops::(cuda|place)/)' ops::cuda ops::place
# Tests with a full-size model would take hours there.
tests "model, engine, trainer and server on the emulated device" \
  'binary(it) & test(/^(model|model_heads|model_memory|model_precision|model_readouts|golden_model|engine|jobs|rpc_swaps|cuda_faults)::/) - test(full_size)' \
  model:: model_heads:: model_memory:: model_precision:: model_readouts:: golden_model:: engine:: jobs:: rpc_swaps:: cuda_faults:: --skip full_size
