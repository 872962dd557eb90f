#!/usr/bin/env bash
# Fills the corpora of the checkpoint readers from golden checkpoints: corpus.sh GOLDEN
set -euo pipefail
golden=$1
own=$(cd "$(dirname "$0")" && pwd)/corpus
mkdir -p "$own"/{torch,zip,pickle,safetensors,configuration,adapters}
put() { # TARGET FILE [FIRST BYTE]
  local name
  name=$(sha256sum "$2" | cut -c1-16)
  { [ -z "${3:-}" ] || printf "\\x$3"; cat "$2"; } >"$own/$1/${3:-}$name"
}
first=$(printf '%s' PK)
find "$golden"/backbones "$golden"/checkpoints -type f -size -512k | while read -r file; do
  case $(basename "$file") in
    case.json | expected.safetensors | README.md) ;;
    config.json) for byte in 00 01 02; do put configuration "$file" $byte; done ;;
    open_clip_config.json) put configuration "$file" 03 ;;
    *preprocessor_config.json | processor_config.json) put configuration "$file" 04 ;;
    *.index.json) put configuration "$file" 05 ;;
    *.safetensors) put safetensors "$file"; put adapters "$file" ;;
    *)
      put torch "$file"; put adapters "$file"
      if [ "$(head -c 2 "$file")" = "$first" ]; then
        put zip "$file"
        for script in 00 01; do
          pickle=$(mktemp)
          unzip -p "$file" '*/data.pkl' >"$pickle" 2>/dev/null || true
          [ ! -s "$pickle" ] || put pickle "$pickle" $script
          rm -f "$pickle"
        done
      else
        put pickle "$file" 00
      fi
      ;;
  esac
done
for corpus in torch zip pickle safetensors configuration adapters; do
  echo "$corpus: $(find "$own/$corpus" -type f | wc -l) files"
done
