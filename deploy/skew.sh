#!/usr/bin/env bash
# Tests this release beside the one before: both on one database, through an upgrade and a rollback, on each other's checkpoints, and by each other's
# command lines. Builds the program of the release before once, from its tag, in a work tree of its own.
#   skew.sh TAG            builds and tests
#   skew.sh --speed TAG    also builds both as they are shipped, and prints how long each takes to start and to its first answer
# FRAMESHIFT_PREVIOUS=FILE uses a program that is there already.
set -euo pipefail
# A function whose output is taken ends at its first failure, too.
shopt -s inherit_errexit
cd "$(dirname "$0")/.."
root=$PWD
fail() { echo "skew: $*" >&2; exit 1; }

speed=0
if [ "${1:-}" = --speed ]; then
  speed=1
  shift
fi
tag=${1:-}
target=${CARGO_TARGET_DIR:-$root/target}

# Prints where the program of the release before is, built with these options.
built() {
  local commit tree program
  [ -n "$tag" ] || fail "usage: skew.sh [--speed] TAG, or FRAMESHIFT_PREVIOUS=FILE skew.sh"
  commit=$(git rev-parse --verify --quiet "$tag^{commit}") || fail "$tag names no commit"
  tree=$target/skew/$commit
  program=$target/skew/frameshift-$commit-$1
  if [ ! -x "$program" ]; then
    [ -d "$tree" ] || git worktree add --quiet --detach "$tree" "$commit" >&2
    (cd "$tree" && CARGO_TARGET_DIR=$target/skew/target cargo build --locked --bin frameshift "${@:2}" >&2) || fail "$tag does not build"
    cp "$target/skew/target/$1/frameshift" "$program.part"
    mv "$program.part" "$program"
    git worktree remove --force "$tree"
  fi
  echo "$program"
}

# `export` would hide that the command in it failed.
if [ -z "${FRAMESHIFT_PREVIOUS:-}" ]; then
  FRAMESHIFT_PREVIOUS=$(built debug)
fi
export FRAMESHIFT_PREVIOUS
if cargo nextest --version >/dev/null 2>&1; then
  cargo nextest run --locked --features cuda --test it -E 'test(/^skew::/)' --no-capture
else
  cargo test --locked --features cuda --test it -- skew:: --nocapture --test-threads 1
fi
if [ "$speed" = 1 ]; then
  cargo build --release --locked --bin frameshift
  FRAMESHIFT_PREVIOUS=$(built release --release)
  export FRAMESHIFT_CURRENT=$target/release/frameshift
  cargo test --locked --features cuda --test it -- skew::the_embedded_server --nocapture
fi
