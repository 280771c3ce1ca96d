# Shared by the scripts of this folder: where the tree is, and how to install what is missing.
# shellcheck shell=bash
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

say() { printf '\033[1m== %s\033[0m\n' "$*" >&2; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }

# What the build needs: DPDK 22.11 with its drivers, libclang for bindgen, a C compiler.
build_packages=(build-essential pkg-config libdpdk-dev libclang-dev)
# What the tests need besides: peers and oracles that are not ours.
test_packages=(tshark tcpdump iproute2 ethtool iperf3 prometheus python3 procps curl openssl debootstrap
    openvswitch-switch-dpdk libfaketime)

# install_missing PACKAGE...: installs Debian packages that are not there yet.
install_missing() {
    local missing=() package
    for package in "$@"; do
        dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
    done
    [ ${#missing[@]} -eq 0 ] && return
    command -v apt-get >/dev/null || die "install these first (Debian names): ${missing[*]}"
    local sudo=()
    if [ "$(id -u)" -ne 0 ]; then
        command -v sudo >/dev/null || die "not root and no sudo; as root: apt-get install ${missing[*]}"
        sudo=(sudo)
    fi
    say "installing ${missing[*]}"
    "${sudo[@]}" apt-get update -qq >&2
    "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

# python_with FOLDER REQUIREMENTS: a Python environment in FOLDER with the packages of the file REQUIREMENTS.
python_with() {
    local folder=$1 requirements=$2
    cmp -s "$requirements" "$folder/requirements.txt" && return
    python3 -c 'import ensurepip' 2>/dev/null || install_missing python3-venv
    say "installing the Python packages of ${requirements#"$root"/}"
    rm -rf "$folder"
    python3 -m venv "$folder"
    "$folder/bin/python" -m pip install --quiet --disable-pip-version-check --only-binary :all: -r "$requirements"
    cp "$requirements" "$folder/requirements.txt"
}

command -v cargo >/dev/null || PATH="$HOME/.cargo/bin:$PATH"
command -v cargo >/dev/null || die "no Rust toolchain: cargo is not on the PATH"
