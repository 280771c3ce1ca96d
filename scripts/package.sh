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
programs=${CARGO_TARGET_DIR:-$root/target}/release
rm -rf "$out"
mkdir -p "$out"/{man,bash,zsh,fish}
for program in sluiced sluice; do
    "$programs/$program" man "$out/man" >&2
    "$programs/$program" completions bash >"$out/bash/$program"
    "$programs/$program" completions zsh >"$out/zsh/_$program"
    "$programs/$program" completions fish >"$out/fish/$program.fish"
done
# Without names and times, which differ from build to build.
gzip -9n "$out"/man/*

say "making the package"
SOURCE_DATE_EPOCH=$(commit_time)
export SOURCE_DATE_EPOCH
cargo deb --quiet --no-build --locked --strip --fast -p sluiced --output "$out"
