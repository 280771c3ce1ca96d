#!/usr/bin/env bash
# Holds dependencies to deny.toml, and writes to target/licences what the package tells of them, for each binary: the
# licences of what is in it (NAME.txt.gz) and its bill of materials (NAME.spdx.json, SPDX 2.3).
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$root"
cargo_tool cargo-deny 0.20.2 --no-default-features
cargo_tool cargo-about 0.9.3 --features cli
cargo_tool cargo-sbom 0.10.0
install_missing python3

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
    gzip -9n "$out/$package.txt"
    cargo sbom --cargo-package "$package" --output-format spdx_json_2_3 |
        python3 $config/same-sbom.py "$(commit_time)" >"$out/$package.spdx.json"
done
