#!/usr/bin/env bash
# Installs the missing dependencies of the build: Debian packages (FFmpeg's libraries, clang, pkg-config, a C compiler) and Rust.
# For Debian 12 and 13 and Ubuntu 24.04, as root or with sudo. Prints each step, and does nothing when everything is installed.
set -euo pipefail

# Oldest Rust version that builds the project, read from rust-version in Cargo.toml.
want=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$(dirname "$0")/../Cargo.toml")

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

missing_packages
if [ ${#packages[@]} -gt 0 ]; then
  install_packages
  missing_packages
  [ ${#packages[@]} = 0 ] || fail "still missing after the installation: ${packages[*]}"
fi
check_ffmpeg
install_rust
