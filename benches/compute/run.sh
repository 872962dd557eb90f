#!/usr/bin/env bash
# `make bench-peers`: our model against PyTorch, ONNX Runtime and OpenVINO on this machine. Everything that it installs lies outside the project.
#   PEER   folder of peer.py and its setup.sh (../shared/peer)
#   VENV   where the peers' Python environment is, or is made (../peer-venv)
#   QUICK  1: the six rows that matter most
#   ROUNDS interleaved rounds (5)   ROWS  only rows whose name contains this   THREADS  of all (physical cores that may be used)
set -euo pipefail
cd "$(dirname "$0")/../.."
peer=$(realpath "${PEER:-../shared/peer}")
venv=$(realpath -m "${VENV:-../peer-venv}")
[ -f "$peer/peer.py" ] || { echo "no peer.py in $peer: set PEER" >&2; exit 66; }
exec 9>"$venv.lock"
flock 9 # One installation at a time.
[ -x "$venv/bin/python" ] || "$peer/setup.sh" "$venv"
"$venv/bin/python" -c 'import onnx, onnxruntime, openvino, nncf' 2>/dev/null || "$venv/bin/pip" install --quiet onnx onnxruntime openvino nncf
flock -u 9
cargo build --release --locked --quiet --bin frameshift
exec "$venv/bin/python" benches/compute/bench.py --peer "$peer" --program "${CARGO_TARGET_DIR:-target}/release/frameshift" --rounds "${ROUNDS:-5}" --rows "${ROWS:-}" \
  --threads "${THREADS:-0}" ${QUICK:+--quick}
