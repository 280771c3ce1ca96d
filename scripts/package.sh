#!/usr/bin/env bash
# Makes the Debian package target/package/sluice_VERSION_ARCH.deb of a release build.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$root"

install_missing "${build_packages[@]}"
cargo_tool cargo-deb 3.8.0 --no-default-features --debug
scripts/licences.sh

say "building"
release_cargo build --release --locked -p sluiced -p sluice

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
SOURCE_DATE_EPOCH=$(commit_time)
export SOURCE_DATE_EPOCH
cargo deb --quiet --no-build --locked --strip --fast -p sluiced --output "$out"
