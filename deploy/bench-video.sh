#!/usr/bin/env bash
# Compares video decoding with libraries for Python. They are installed into a folder outside the project, as CPU wheels from the registries; the table
# names those that could not be installed.
#   FRAMESHIFT_PEERS    folder to install them into (default: ~/.cache/frameshift/peers)
#   FRAMESHIFT_PROGRAM  the program to measure (default: a release build)
#   ROUNDS              interleaved rounds (default: 8)
#   ROWS                only the rows that match this regular expression (default: all)
set -euo pipefail
cd "$(dirname "$0")/.."
peers="${FRAMESHIFT_PEERS:-${XDG_CACHE_HOME:-$HOME/.cache}/frameshift/peers}"
shared="${FRAMESHIFT_SHARED:-../shared}"
[ -d "$shared/clips" ] || shared=tests/data

mkdir -p "$peers"
if [ ! -x "$peers/venv/bin/python" ]; then
  python3 -m venv "$peers/venv"
fi
python="$peers/venv/bin/python"
install() {
  "$python" -m pip install --quiet --disable-pip-version-check "$@" || echo "== cannot install: $*" >&2
}
has() { "$python" -c "import $1" >/dev/null 2>&1; }
has av || install av numpy
has decord || install decord
has torch || "$python" -m pip install --quiet --disable-pip-version-check torch --index-url https://download.pytorch.org/whl/cpu || install torch
has torchcodec.decoders || install torchcodec
# torchcodec loads FFmpeg's shared libraries, including two that this project does not need.
loads() { "$python" -c 'import ctypes.util as u, sys; sys.exit(not (u.find_library("avdevice") and u.find_library("avfilter")))'; }
if ! loads && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  echo "== installing libavdevice and libavfilter, which torchcodec loads" >&2
  apt-get install -y -qq --no-install-recommends libavdevice-dev libavfilter-dev >/dev/null || true
fi
loads || echo "== torchcodec will not load: install FFmpeg's libavdevice and libavfilter, or name their folder in LD_LIBRARY_PATH" >&2

program="${FRAMESHIFT_PROGRAM:-}"
if [ -z "$program" ]; then
  cargo build --release --locked
  program="${CARGO_TARGET_DIR:-target}/release/frameshift"
fi
"$python" benches/peers/clips.py "$shared" "$peers/clips"
"$python" benches/peers/run.py "$program" "$shared" "$peers/clips" benches/RESULTS.md "${ROUNDS:-8}" "${ROWS:-}"
