#!/usr/bin/env bash
# `make dist-cuda`: dist/cuda, a folder below 40 MiB that checks and measures the CUDA path on a machine with a GPU, where nothing else of this project is:
#   dist/cuda/check.sh --limit SECONDS
# It has the program, without and with CUTLASS's products, the test programs, the golden vectors, and the PyTorch peer.
#   PROFILE  cargo's profile of the programs (release); others give a folder that is too large to be copied by hand, and a warning in place of an error
#   PEER     folder of peer.py (../shared/peer); without it the peer is left out
set -euo pipefail
cd "$(dirname "$0")/.."
phase() { deploy/phase.sh "$@"; }
profile=${PROFILE:-release}
target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
built=$target/$([ "$profile" = dev ] && echo debug || echo "$profile")
out=dist/cuda limit=40
# Phases are functions too, which see only what is exported.
export pack=$target/dist-cuda kernels=crates/model/src/ops/cuda/kernels

own="${FRAMESHIFT_CUDA:-$HOME/.cache/frameshift-cuda}/nvidia/cu13/bin/nvcc"
if [ -z "${NVCC:-}" ] && ! command -v nvcc >/dev/null 2>&1 && [ -x "$own" ]; then
  export NVCC="$own"
fi
export FRAMESHIFT_REQUIRE_NVCC=1
"${NVCC:-nvcc}" --version >/dev/null || { echo "dist-cuda: nvcc is missing: run deploy/setup.sh --cuda" >&2; exit 1; }

command -v xz >/dev/null || { echo "dist-cuda: xz is missing: run deploy/setup.sh --cuda" >&2; exit 1; }

rm -rf "$out" "$pack"
mkdir -p "$out" "$pack/programs/ffmpeg" "$pack/shared/golden"

# No database server, bucket or issuer is asked.
phase "program with CUTLASS" cargo build --profile "$profile" --locked --no-default-features --features cutlass --bin frameshift
cp "$built/frameshift" "$pack/programs/frameshift-cutlass"
phase "program" cargo build --profile "$profile" --locked --no-default-features --features cuda --bin frameshift
cp "$built/frameshift" "$pack/programs/frameshift"

tests() {
  set -e
  # Nothing is timed there, and code that does not compute is the largest part: it is built to be small.
  local crate small=()
  for crate in frameshift frameshift-core frameshift-video; do
    small+=(--config "profile.$profile.package.$crate.opt-level=\"z\"")
  done
  cargo test --profile "$profile" "${small[@]}" --locked --no-default-features --features cuda --no-run --test it --message-format json-render-diagnostics >"$pack/built"
  cargo test --profile "$profile" --locked -p frameshift-model --features cuda --no-run --lib --message-format json-render-diagnostics >>"$pack/built"
}
# Prints the path of a test program by the name of its target.
program() { sed -n "s/.*\"kind\":\[\"\(lib\|test\)\"\].*\"name\":\"$1\".*\"executable\":\"\([^\"]*\)\".*/\2/p" "$pack/built" | tail -n 1; }
export -f tests
export profile
phase "test programs" tests
cp "$(program frameshift_model)" "$pack/programs/model-tests"
cp "$(program it)" "$pack/programs/it-tests"

device() {
  set -e
  local code=(-gencode=arch=compute_80,code=sm_80 -gencode=arch=compute_90a,code=sm_90a -gencode=arch=compute_80,code=compute_80)
  "${NVCC:-nvcc}" -O3 -std=c++17 -Werror all-warnings -fatbin "${code[@]}" -o "$pack/programs/kernels.fatbin" $kernels/all.cu
  "${NVCC:-nvcc}" -O3 -std=c++17 -Werror all-warnings -fatbin "${code[@]}" -I$kernels -o "$pack/programs/functions.fatbin" tests/emulated/functions/functions.cu
  g++ -std=c++17 -O2 -Itests/emulated -static-libstdc++ -static-libgcc -o "$pack/programs/check_device" tests/emulated/check/*.cpp tests/emulated/device.cpp -ldl
}
export -f device
phase "kernels and their checks" device
cp $kernels/resources.txt "$pack/programs/kernels.txt"
strip "$pack"/programs/frameshift* "$pack"/programs/*-tests "$pack/programs/check_device"

# Libraries with the names, versions and functions of FFmpeg that the program asks for; a call of one ends the program. The real ones need 136 others.
stand_ins() {
  set -eo pipefail
  local library base node functions
  readelf -d "$pack/programs/frameshift" "$pack/programs/it-tests" | grep -oE 'lib(av|sw)[a-z]+\.so\.[0-9]+' | sort -u | while read -r library; do
    base=${library%%.so*} node=$(tr a-z A-Z <<<"${library%%.so*}_${library##*.}")
    functions=$(nm -D --undefined-only "$pack"/programs/frameshift* "$pack/programs/it-tests" | grep -oE "[a-zA-Z_0-9]+@$node\b" | cut -d@ -f1 | sort -u)
    {
      echo '#include <stdio.h>'
      echo '#include <stdlib.h>'
      for function in $functions; do
        echo "void $function(void) { fputs(\"$function: FFmpeg is not here\\n\", stderr); abort(); }"
      done
    } >"$pack/$base.c"
    echo "$node { global: *; };" >"$pack/$base.map"
    gcc -shared -fPIC -w -fno-builtin -Wl,-soname,"$library" -Wl,--version-script="$pack/$base.map" -o "$pack/programs/ffmpeg/$library" "$pack/$base.c"
  done
}
export -f stand_ins
phase "stand-ins for FFmpeg" stand_ins

shared=${FRAMESHIFT_SHARED:-../shared}
[ -d "$shared/golden/model" ] || shared=tests/data
cp -rL "$shared/golden/model" "$pack/shared/golden/"
# The two programs have most of their code in common, so the dictionary holds both.
tar -C "$pack" -c programs shared | xz --x86 --lzma2=preset=9e,dict=256MiB -T1 >"$out/programs.tar.xz"
mkdir "$out/xz"
cp "$(command -v xz)" "$(ldd "$(command -v xz)" | sed -n 's/.*liblzma[^ ]* => \([^ ]*\) .*/\1/p')" "$out/xz/"

cp deploy/cuda/check.sh "$out/check.sh"
headers="${FRAMESHIFT_CUTLASS:-$(dirname "$own")/../../../cutlass_library/source}"
mkdir "$out/licences"
cp LICENSE "$out/licences/frameshift"
for licence in "$headers"/LICENSE.txt "$headers"/../../nvidia_cutlass-*.dist-info/licenses/LICENSE.txt "$headers"/../../nvidia_cutlass-*.dist-info/LICENSE.txt; do
  [ ! -e "$licence" ] || cp "$licence" "$out/licences/cutlass"
done
[ ! -e /usr/share/doc/xz-utils/copyright ] || cp /usr/share/doc/xz-utils/copyright "$out/licences/xz"
peer=${PEER:-../shared/peer}
if [ -f "$peer/peer.py" ]; then
  mkdir "$out/peer"
  cp "$peer/peer.py" "$out/peer/"
else
  echo "== the peer: there is no peer.py in $peer (PEER); it is left out"
fi
{ git describe --always --dirty 2>/dev/null || echo unknown; } >"$out/VERSION"
size=$(du -sk "$out" | cut -f1)
echo "== dist/cuda: $((size / 1024)) MiB, at most $limit"
[ "$size" -le $((limit * 1024)) ] || [ "$profile" != release ] || exit 1
