#!/usr/bin/env bash
# Makes the Debian package target/package/sluice_VERSION_ARCH.deb of a release build.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$root"
cargo_deb_version=3.8.0

install_missing "${build_packages[@]}"
tools=$root/target/tools
if [ "$("$tools/bin/cargo-deb" --version 2>/dev/null)" != "cargo-deb $cargo_deb_version" ]; then
    say "building cargo-deb"
    cargo install cargo-deb --version "$cargo_deb_version" --locked --no-default-features --debug --quiet --root "$tools"
fi

say "building"
cargo build --release --locked -p sluiced -p sluice

out=$root/target/package
sluice=${CARGO_TARGET_DIR:-$root/target}/release/sluice
rm -rf "$out"
mkdir -p "$out/man"
"$sluice" man "$out/man" >&2
# Without names and times, which differ from build to build.
gzip -9n "$out"/man/*
"$sluice" completions bash >"$out/sluice.bash"
"$sluice" completions zsh >"$out/_sluice"
"$sluice" completions fish >"$out/sluice.fish"

say "making the package"
# The same commit gives the same times in the package.
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct 2>/dev/null || echo 0)
export SOURCE_DATE_EPOCH
"$tools/bin/cargo-deb" --quiet --no-build --locked --strip --fast -p sluiced --output "$out"
