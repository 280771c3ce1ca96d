# Shared by the scripts of this folder: where the tree is, and how to install what is missing.
# shellcheck shell=bash
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

say() { printf '\033[1m== %s\033[0m\n' "$*" >&2; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }

# What the build needs: DPDK 22.11 with its drivers, libclang for bindgen, a C compiler.
build_packages=(build-essential pkg-config libdpdk-dev libclang-dev)
# What the tests need besides: peers and oracles that are not ours.
test_packages=(tshark tcpdump iproute2 ethtool iperf3 prometheus python3 procps curl openssl zstd debootstrap
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

# cargo_tool NAME VERSION [OPTION...]: a program for cargo from the registry, built when it is not there in this version.
# All clones on the machine share them.
cargo_tool() {
    local name=$1 version=$2 tools=${XDG_CACHE_HOME:-$HOME/.cache}/sluice/tools
    shift 2
    PATH=$tools/bin:$PATH
    cargo install --list --root "$tools" | grep -q "^$name v$version:" && return
    say "building $name"
    # Not in the folder of the project's own build, whose settings are others.
    env -u CARGO_TARGET_DIR cargo install "$name" --version "$version" --locked --quiet --root "$tools" "$@"
}

# release_cargo ARGUMENT...: cargo for release builds, which leaves the paths of this machine out of what it makes: the
# same commit gives the same binaries wherever it is built (scripts/reproduce.sh). All release builds of the scripts go
# by it: other flags build everything anew.
release_cargo() {
    local target=${CARGO_TARGET_DIR:-$root/target} home=${CARGO_HOME:-$HOME/.cargo} pair rust='' c=${CFLAGS:-}
    cargo fetch --locked --quiet --target x86_64-unknown-linux-gnu
    # Of several that fit, the last one counts. Rust's own paths are mapped already, unless its source is installed.
    local pairs=("$home=/cargo" "$root=/sluice" "$target=/target") folder
    pairs+=("$(rustc --print sysroot)/lib/rustlib/src/rust=/rustc/$(rustc -vV | sed -n 's/^commit-hash: //p')")
    for folder in "$home"/registry/src/*/; do
        pairs+=("${folder%/}=/registry")
    done
    for pair in "${pairs[@]}"; do
        # Such a path can be told neither to cargo nor to a C compiler here: it stays in.
        [[ $pair != *[[:space:]\'\"\\]* ]] || continue
        rust+="'--remap-path-prefix=$pair', "
        c+=" -ffile-prefix-map=$pair"
    done
    # Flags of the environment would take the place of ours.
    env -u RUSTFLAGS -u CARGO_ENCODED_RUSTFLAGS CFLAGS="$c" \
        cargo --config "target.x86_64-unknown-linux-gnu.rustflags = [$rust]" "$@"
}

# The time of the commit, seconds since 1970: the same commit gives the same files.
commit_time() {
    git -C "$root" -c safe.directory="$root" log -1 --format=%ct 2>/dev/null && return
    say "warning: no git, or no clone: files of the package are of 1970"
    echo 0
}

command -v cargo >/dev/null || PATH="$HOME/.cargo/bin:$PATH"
command -v cargo >/dev/null || die "no Rust toolchain: cargo is not on the PATH"
