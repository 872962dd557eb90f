#!/usr/bin/env bash
# Checks and measures the CUDA path on this machine's first GPU, in one go. Needs a driver of NVIDIA's (branch 580 or newer), glibc 2.36 and libcublasLt.so.13;
# PyTorch, compute-sanitizer and ncu are used where they are.
#   check.sh [--limit SECONDS] [--size NAME] [--out FOLDER] [--only TEXT]
#     --limit  seconds for everything (480): what does not fit is skipped; correctness comes first
#     --size   backbone that is measured (vit_b16); `tiny` tries the script itself
#     --out    folder for results.json, RESULTS.cuda.md and the logs (results, beside this script)
#     --only   only steps whose name contains this
# results.json is complete after every step. The last lines are a table. Exit code: 0, or 1 when a correctness step failed or was not reached.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
limit=480 size=vit_b16 out="$here/results" only=""
while [ $# -gt 0 ]; do
  case "$1" in
    --limit) limit=${2:?} ;;
    --size) size=${2:?} ;;
    --out) out=${2:?} ;;
    --only) only=${2:?} ;;
    *) sed -n '2,/^set/s/^# \{0,1\}//p' "$0" | sed '$d' >&2; exit 64 ;;
  esac
  shift 2
done
case "$limit" in '' | *[!0-9]*) echo "check.sh: --limit is a number of seconds, not $limit" >&2; exit 64 ;; esac

begin=$(date +%s)
mkdir -p "$out/logs" "$out/steps" || exit 73
rm -f "$out"/steps/* "$out"/logs/* "$out/results.json" "$out/RESULTS.cuda.md"
work=$(mktemp -d) || exit 73
trap 'rm -rf "$work"' EXIT
left() { echo $((limit - ($(date +%s) - begin))); }

# The programs are packed; the folder brings its own xz.
LD_LIBRARY_PATH="$here/xz${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}" "$here/xz/xz" -dc "$here/programs.tar.xz" | tar -x -C "$work" || exit 66
bin="$work/programs"

# --- libraries -------------------------------------------------------------------------------------------------------------------------------------------
# Folder of a library that the loader does not find by itself; nothing when it does.
folder_of() {
  local name=$1 folder
  ldconfig -p 2>/dev/null | grep -q "[[:space:]]$name " && return 0
  {
    tr : '\n' <<<"${LD_LIBRARY_PATH:-}"
    python3 -c 'import site; print("\n".join(f"{p}/nvidia/{d}/lib" for p in [*site.getsitepackages(), site.getusersitepackages()] for d in ("cu13", "cublas")))' 2>/dev/null
    printf '%s\n' /usr/local/cuda/lib64 /usr/local/cuda-13*/lib64 /usr/local/cuda*/targets/*/lib /usr/local/nvidia/lib64
  } | while read -r folder; do
    [ -n "$folder" ] && [ -e "$folder/$name" ] && { echo "$folder"; break; }
  done
}
for name in libcublasLt.so.13 libcuda.so.1; do
  folder=$(folder_of "$name" | head -n 1)
  [ -z "$folder" ] || export LD_LIBRARY_PATH="$folder${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
done
# The program links FFmpeg, which nothing here calls: libraries with the same functions stand in for it where it is not installed.
if ldd "$bin/frameshift" 2>/dev/null | grep -qE 'lib(av|sw)[a-z]+\.so.* not found'; then
  export LD_LIBRARY_PATH="${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$work/programs/ffmpeg"
fi
gpu=$(nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader 2>/dev/null | head -n 1)
cublaslt=$(folder_of libcublasLt.so.13 | head -n 1)
cublaslt=$(realpath "${cublaslt:-$(dirname "$(ldconfig -p 2>/dev/null | sed -n 's/.*libcublasLt.so.13 .*=> //p' | head -n 1)")}/libcublasLt.so.13" 2>/dev/null)
export FRAMESHIFT_SHARED="$work/shared" FS_IMAGES="$bin/kernels.fatbin:$bin/functions.fatbin" FS_KERNELS="$bin/kernels.txt"

# --- steps -----------------------------------------------------------------------------------------------------------------------------------------------
escaped() { sed -e 's/\\/\\\\/g' -e 's/"/\\"/g' -e 's/[[:cntrl:]]/ /g' | tr -d '\n' | cut -c1-400; }
broken=0 count=0

# Writes results.json from what all steps have left.
write_results() {
  {
    printf '{"begun":"%s","machine":"%s","gpu":"%s","cublaslt":"%s","glibc":"%s","limit_s":%s,"size":"%s","version":"%s","seconds":%s,"steps":[\n' \
      "$(date -u -d "@$begin" +%FT%TZ)" "$(uname -rm | escaped)" "$(escaped <<<"$gpu")" "$(escaped <<<"$cublaslt")" "$(ldd --version | head -n 1 | escaped)" "$limit" "$size" "$(escaped <"$here/VERSION")" "$(($(date +%s) - begin))"
    local first=1 file
    for file in "$out"/steps/*.json; do
      [ -e "$file" ] || continue
      [ $first = 1 ] || echo ,
      first=0
      cat "$file"
    done
    echo ']}'
  } >"$work/results" && cp "$work/results" "$out/.results.json" && mv "$out/.results.json" "$out/results.json"
}

# record KIND NAME STATUS SECONDS REASON: a step's end; its lines of JSON are in $work/lines.
record() {
  local file
  count=$((count + 1))
  file=$(printf '%s/steps/%03d.json' "$out" $count)
  {
    printf '{"step":"%s","kind":"%s","status":"%s","seconds":%s,"reason":"%s","lines":[' "$2" "$1" "$3" "$4" "$(escaped <<<"$5")"
    grep '^{.*}$' "$work/lines" 2>/dev/null | paste -sd, | tr -d '\n'
    echo ']}'
  } >"$file"
  write_results
  printf '%-46s %-9s %5s s  %s\n' "$2" "$3" "$4" "$(cut -c1-80 <<<"$5")"
}

# step KIND NAME LIMIT LEAST COMMAND …: runs a command that may take so many seconds; it is skipped when fewer than LEAST are left. KIND is `correctness` or
# `measure`.
step() {
  local kind=$1 name=$2 most=$3 least=$4 rest start took status reason=""
  shift 4
  case "$name" in *"$only"*) ;; *) return 0 ;; esac
  : >"$work/lines"
  rest=$(left)
  if [ "$rest" -lt "$least" ]; then
    record "$kind" "$name" skipped 0 "$rest seconds are left, it needs $least"
    [ "$kind" = correctness ] && broken=1
    return 0
  fi
  [ "$rest" -lt "$most" ] && most=$rest
  start=$(date +%s)
  timeout -k 5 "$most" "$@" >"$work/lines" 2>"$work/errors"
  status=$?
  took=$(($(date +%s) - start))
  cat "$work/lines" "$work/errors" >"$out/logs/$(tr -c 'A-Za-z0-9\n' _ <<<"$name").log"
  if [ $status = 0 ]; then
    record "$kind" "$name" passed "$took" ""
    return 0
  fi
  reason=$(grep -hE 'FAILED|panicked|error|fails|returns|ERROR' "$work/lines" "$work/errors" | head -n 1)
  [ -n "$reason" ] || reason=$(cat "$work/errors" "$work/lines" | grep -v '^$' | tail -n 1)
  if [ $status = 124 ] || [ $status = 137 ]; then
    record "$kind" "$name" "timed out" "$took" "after $most seconds: $reason"
  else
    record "$kind" "$name" failed "$took" "exit code $status: $reason"
  fi
  [ "$kind" = correctness ] && broken=1
  return 1
}

# lacks KIND NAME WHY: a step that this machine cannot run.
lacks() {
  case "$2" in *"$only"*) ;; *) return 0 ;; esac
  : >"$work/lines"
  record "$1" "$2" skipped 0 "$3"
}

# passed NAME: whether a step of this name passed.
passed() { grep -qs "\"step\":\"$1\",\"kind\":\"[a-z]*\",\"status\":\"passed\"" "$out"/steps/*.json; }

# --- correctness -----------------------------------------------------------------------------------------------------------------------------------------
on_gpu=(env FRAMESHIFT_TEST_DEVICE=cuda)
# On a device that is emulated, a full-size model takes hours.
full=()
if [ "$size" = tiny ]; then
  full=(--skip full_size)
  small=(--limit-side 64 --limit-mib 1 --runs 1) big=("${small[@]}") seconds=0.1 batches=(1 2) sets=2
else
  small=(--limit-side 1024 --limit-mib 64) big=() seconds=3 batches=(1 32 128) sets=64
fi
large=${batches[-1]} middle=${batches[1]}

step correctness "driver, library and device" 60 5 "$bin/frameshift" bench kernels --device cuda:0 --precision bf16 --size tiny "${small[@]}" --only AdamW
step correctness "functions of device.cuh" 30 5 "$bin/check_device" functions
step correctness "kernels against f64" 90 10 "$bin/check_device"
step correctness "device layer and operations" 90 10 "${on_gpu[@]}" "$bin/model-tests" --test-threads 1 ops::cuda ops::placed ops::place
step correctness "golden cases, f32 and bf16" 90 10 "${on_gpu[@]}" "$bin/it-tests" --test-threads 1 "${full[@]}" golden_model:: model_heads::reference
step correctness "batches, mixed sets, training, by the bit" 90 10 "${on_gpu[@]}" "$bin/it-tests" --test-threads 1 "${full[@]}" model:: model_readouts:: model_heads::
step correctness "engine: swaps, residency, batches" 90 10 "${on_gpu[@]}" "$bin/it-tests" --test-threads 1 "${full[@]}" engine::
step correctness "every operation at full size, f32" 60 10 "$bin/frameshift" bench compute infer --device cuda:0 --precision f32 --size "$size" --preset 12x384 --runs 1
step correctness "every operation at full size, bf16" 60 10 "$bin/frameshift" bench compute infer --device cuda:0 --precision bf16 --size "$size" --preset 12x384 --runs 1
if [ -x "$bin/frameshift-cutlass" ]; then
  step measure "products with activation by CUTLASS" 60 10 "$bin/frameshift-cutlass" bench kernels --device cuda:0 --precision bf16 --size "$size" --batch "$middle" "${big[@]}" --only fc
fi

sanitizer=$(command -v compute-sanitizer || ls /usr/local/cuda*/bin/compute-sanitizer 2>/dev/null | head -n 1)
for check in "memcheck functions" "racecheck functions" "initcheck functions" "racecheck races"; do
  if [ -n "$sanitizer" ]; then
    step correctness "compute-sanitizer $check" 45 20 "$sanitizer" --tool "${check% *}" --error-exitcode 9 "$bin/check_device" "${check#* }"
  else
    lacks measure "compute-sanitizer $check" "it is not installed"
  fi
done

# --- speed -----------------------------------------------------------------------------------------------------------------------------------------------
step measure "kernels, batch $middle" 60 15 "$bin/frameshift" bench kernels --device cuda:0 --precision bf16 --size "$size" --batch "$middle" "${big[@]}"

ours() { step measure "ours $1 $2 batch $3${4:+ $4 $5}" 40 10 "$bin/frameshift" bench compute "$1" --device cuda:0 --precision bf16 --size "$size" --preset "$2" --batch "$3" --seconds "$seconds" "${@:4}"; }
cutlass() {
  passed "products with activation by CUTLASS" || return 0
  step measure "ours+cutlass $1 $2 batch $3" 40 10 "$bin/frameshift-cutlass" bench compute "$1" --device cuda:0 --precision bf16 --size "$size" --preset "$2" --batch "$3" --seconds "$seconds"
}
python=""
python3 -c 'import torch; assert torch.cuda.is_available()' 2>/dev/null && python=python3
# peer NAME WHAT PRESET BATCH OPTION …: the same shapes in PyTorch.
peer() {
  local name="peer $1 $2 $3 batch $4" variables=()
  case "$1" in *autotune*) variables+=(TORCHINDUCTOR_MAX_AUTOTUNE=1) ;; esac
  case "$1" in *graphs*) variables+=(TORCHINDUCTOR_CUDAGRAPHS=1) ;; esac
  [ -n "$python" ] || { lacks measure "$name" "there is no PyTorch with a GPU"; return 0; }
  [ "$size" = vit_b16 ] || { lacks measure "$name" "the peer is a ViT-B/16"; return 0; }
  step measure "$name" 90 20 env "${variables[@]}" "$python" "$here/peer/peer.py" bench "$2" --device cuda --dtype bf16 --preset "$3" --batch "$4" --seconds "$seconds" "${@:5}"
}
of_peer() { [ "$1" = bare ] && echo vit_b16_bare || echo "$1"; }

# The two main rows, interleaved with the peer's ways; then the others.
for preset in bare 12x384; do
  for turn in eager compile compile+autotune compile+autotune+graphs; do
    ours infer $preset "$middle"
    cutlass infer $preset "$middle"
    compiled=()
    [ $turn = eager ] || compiled=(--compile)
    peer $turn infer "$(of_peer $preset)" "$middle" "${compiled[@]}"
  done
done
for preset in bare 12x384 24x384; do
  for batch in "${batches[@]}"; do
    [ "$batch" = "$middle" ] && [ $preset != 24x384 ] && continue
    ours infer $preset "$batch"
  done
done
peer eager infer vit_b16_bare 1
peer compile+autotune+graphs infer vit_b16_bare 1 --compile
ours infer 12x384 "$large" --sets "$sets"
ours train 12x384 "$middle"
peer compile+autocast train 12x384 "$middle" --compile --autocast
ncu=$(command -v ncu || ls /opt/nvidia/nsight-compute/*/ncu 2>/dev/null | head -n 1)
if [ -n "$ncu" ]; then
  step measure "ncu: attention, LayerNorm" 60 30 "$ncu" --clock-control none --set basic --launch-count 2 -k 'regex:attention_64|norm_bf16_3' \
    "$bin/frameshift" bench compute infer --device cuda:0 --precision bf16 --size "$size" --preset bare --batch "$middle" --runs 1
else
  lacks measure "ncu: attention, LayerNorm" "it is not installed"
fi

# --- the table -------------------------------------------------------------------------------------------------------------------------------------------
number() { sed -n "s/.*\"$1\": *\([0-9.]*\).*/\1/p" | head -n 1; }
# Clips a second of a row's steps: the best of them.
best() { grep -hE "\"step\":\"$1\",\"kind\":\"measure\",\"status\":\"passed\"" "$out"/steps/*.json 2>/dev/null | while read -r line; do number clips_per_s <<<"$line"; done | sort -g | tail -n 1; }
over() { awk -v a="${1:-0}" -v b="${2:-0}" 'BEGIN { if (a > 0 && b > 0) printf "%.2f", a / b; else printf "–" }'; }
table() {
  echo "| step | result | s | |"
  echo "|---|---|---|---|"
  sed -n 's/^{"step":"\([^"]*\)","kind":"[a-z]*","status":"\([a-z ]*\)","seconds":\([0-9]*\),"reason":"\(.*\)","lines":.*/\1\t\2\t\3\t\4/p' "$out"/steps/*.json |
    while IFS=$'\t' read -r name status took reason; do
      case "$name" in
        ours* | peer*) figure=$(best "$(sed 's/[+.]/\\&/g' <<<"$name")") ;;
        *) figure="" ;;
      esac
      echo "| $name | $status | $took | ${figure:+$figure clips/s}${reason:0:90} |"
    done | awk -F'|' '!seen[$2]++'
}
ratios() {
  echo "| ours over the best of PyTorch | ours | PyTorch | ratio |"
  echo "|---|---|---|---|"
  local preset batch own rival
  for preset in bare 12x384; do
    for batch in 1 "$middle"; do
      own=$(best "ours(\\+cutlass)? infer $preset batch $batch") rival=$(best "peer [a-z+]* infer $(of_peer $preset) batch $batch")
      echo "| infer $preset, batch $batch | ${own:-–} | ${rival:-–} | $(over "$own" "$rival") |"
    done
  done
  own=$(best "ours train 12x384 batch $middle") rival=$(best "peer [a-z+]* train 12x384 batch $middle")
  echo "| train 12x384, batch $middle | ${own:-–} | ${rival:-–} | $(over "$own" "$rival") |"
}
{
  echo "# CUDA: ${gpu:-no nvidia-smi}, $(date -u +%F)"
  echo
  echo "\`check.sh --limit $limit --size $size\`, version $(cat "$here/VERSION"), ${cublaslt:-no libcublasLt.so.13}"
  echo
  ratios
  echo
  table
} >"$out/RESULTS.cuda.md"
write_results
tail -n +5 "$out/RESULTS.cuda.md" | head -n 57
echo "results: $out/results.json, $out/RESULTS.cuda.md, $out/logs"
if [ $broken = 1 ]; then
  echo "FAILED: a correctness step failed or was not reached"
  exit 1
fi
echo "all correctness steps passed"
