#!/usr/bin/env bash
# Holds dependencies to deny.toml, and writes to target/licences what the package tells of them, for each binary: the
# licences and notices of the crates in it (NAME.txt.gz) and its bill of materials (NAME.spdx.json, SPDX 2.3), and those
# of Rust's standard library, which is in both.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$root"
install_missing "${build_packages[@]}" python3
cargo_tool cargo-deny 0.20.2 --no-default-features
cargo_tool cargo-about 0.9.3 --features cli
cargo_tool cargo-sbom 0.10.0

say "licences of dependencies"
cargo fetch --locked --quiet
cargo deny --offline --locked check licenses bans sources

config=appliance/packaging/licences
out=$root/target/licences
rm -rf "$out"
mkdir -p "$out"
for package in sluiced sluice; do
    cargo about generate --offline --locked --fail -m "appliance/$package/Cargo.toml" -c $config/about.toml \
        -o "$out/$package.txt" $config/about.hbs
    python3 $config/shipped.py notices "$package" >>"$out/$package.txt"
    gzip -9n "$out/$package.txt"
    cargo sbom --cargo-package "$package" --output-format spdx_json_2_3 |
        python3 $config/shipped.py bill "$package" "$(commit_time)" >"$out/$package.spdx.json"
done
standard=$(rustc --print sysroot)/share/doc/rust/COPYRIGHT-library.html
if [ -r "$standard" ]; then
    cp "$standard" "$out/rust-standard-library.html"
    chmod 644 "$out/rust-standard-library.html"
else
    say "warning: this toolchain does not say under which terms its standard library is; the package will not, either"
fi
