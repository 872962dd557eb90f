#!/usr/bin/env bash
# Writes the software bill of materials (CycloneDX, JSON) of what `cargo build --locked` puts into the program: sbom.sh [FILE]
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-${CARGO_TARGET_DIR:-target}/frameshift.cdx.json}
if ! cargo cyclonedx --version >/dev/null 2>&1; then
  cargo install --locked --version 0.5.9 cargo-cyclonedx
fi
mkdir -p "$(dirname "$out")"
# It reads Cargo.lock, and writes beside each crate's Cargo.toml; only that of the program is kept.
name=sbom-$$
trap 'find . -path ./target -prune -o -name "$name.json" -exec rm -f {} +' EXIT
cargo cyclonedx --format json --spec-version 1.5 --target "$(rustc -vV | sed -n 's/^host: //p')" --override-filename "$name" --quiet
mv "$name.json" "$out"
echo "$out: $(grep -c '"purl"' "$out") components"
