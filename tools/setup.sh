# shellcheck shell=bash
# Installs what is missing, from Debian's packages and Rust's. Says nothing when nothing is.

readonly BUILD_PACKAGES=(
  g++ cmake ninja-build ccache mold pkg-config ca-certificates python3 python3-numpy
  libboost1.81-dev libboost-context1.81-dev libssl-dev libcurl4-openssl-dev libprotobuf-dev protobuf-compiler nlohmann-json3-dev libsimdjson-dev
  libspdlog-dev libfmt-dev libcli11-dev libtomlplusplus-dev libgtest-dev libgmock-dev
)
readonly TEST_PACKAGES=(
  g++-aarch64-linux-gnu qemu-user clang clang-format libclang-rt-14-dev python3-venv
  iproute2 nftables tcpdump
)
readonly RUST_PACKAGES=(rustc-web cargo-web) # the newest Rust that Debian 12 carries
readonly RUST_MINOR_MIN=88
readonly SETUP_LOG=build/setup.log

# The names among "$@" that are not installed.
missing_packages() {
  local have package
  have=$(dpkg-query -W -f='${Package} ${db:Status-Status}\n' "$@" 2>/dev/null || true)
  for package in "$@"; do
    [[ $'\n'$have$'\n' == *$'\n'"$package installed"$'\n'* ]] || printf '%s\n' "$package"
  done
}

rust_is_new_enough() {
  local major minor
  IFS='. ' read -r _ major minor _ < <("$1" --version 2>/dev/null) || return 1
  ((major > 1 || minor >= RUST_MINOR_MIN))
}

# Puts the first cargo that is new enough at the front of PATH.
use_cargo() {
  local cargo
  for cargo in "$(command -v cargo || true)" "${HOME:-}/.cargo/bin/cargo" /usr/bin/cargo; do
    if [[ -x $cargo ]] && rust_is_new_enough "$cargo"; then
      export PATH="${cargo%/*}:$PATH"
      return 0
    fi
  done
  return 1
}

install_packages() {
  local as_root=() unknown
  if ((EUID != 0)); then
    command -v sudo >/dev/null || die "not root and no sudo: as root, run apt-get install $*"
    sudo -v || die "sudo refused: as root, run apt-get install $*"
    as_root=(sudo)
  fi
  step "installing Debian packages: $*"
  rm -f "$SETUP_LOG"
  # A list that could not be refreshed matters only if a package is then not found.
  logged "$SETUP_LOG" "${as_root[@]}" apt-get update || note "apt-get update failed; going on"
  if ! logged "$SETUP_LOG" "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get install --yes --no-install-recommends "$@"; then
    tail -n 20 "$SETUP_LOG" >&2
    unknown=$(sed -n 's/^E: Unable to locate package //p' "$SETUP_LOG" | sort -u | tr '\n' ' ')
    [[ -z $unknown ]] || die "this system's package lists do not have: $unknown"
    die "could not install: $(missing_packages "$@" | tr '\n' ' ')"
  fi
}

setup_packages() {
  local missing=()
  if ! command -v dpkg-query >/dev/null; then
    use_cargo || die "no Rust 1.$RUST_MINOR_MIN or newer: install cargo and rustc"
    note "not Debian: going on with what is installed (Debian's names: $*)"
    return
  fi
  mapfile -t missing < <(missing_packages "$@")
  use_cargo || missing+=("${RUST_PACKAGES[@]}")
  if ((${#missing[@]} > 0)); then install_packages "${missing[@]}"; fi
  use_cargo || die "no Rust 1.$RUST_MINOR_MIN or newer, even with ${RUST_PACKAGES[*]} installed"
}

# Rust's crates, exactly as crates/text/Cargo.lock names them.
setup_crates() {
  local stamp=build/crates.fetched lock=crates/text/Cargo.lock
  [[ -f $stamp && $stamp -nt $lock ]] && return
  step "fetching Rust crates"
  rm -f build/logs/cargo-fetch.log
  quietly build/logs/cargo-fetch.log cargo fetch --locked --manifest-path crates/text/Cargo.toml
  touch "$stamp"
}

setup_hooks() {
  [[ -z ${CI:-} && -z $(git config core.hooksPath 2>/dev/null) ]] || return 0
  [[ $(git rev-parse --show-toplevel 2>/dev/null) == "$ROOT" ]] || return 0
  git config core.hooksPath .githooks
  note "git runs ./dev check before each commit"
}

setup() { # build | all
  mkdir -p build
  if [[ $1 == all ]]; then
    setup_packages "${BUILD_PACKAGES[@]}" "${TEST_PACKAGES[@]}"
  else
    setup_packages "${BUILD_PACKAGES[@]}"
  fi
  setup_crates
}
