#!/usr/bin/env bash
# Builds Sluice and replays a capture through it: ./scripts/quickstart.sh [CAPTURE]
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

capture=${1:-}
[ -z "$capture" ] || [ -r "$capture" ] || die "$capture: cannot be read"
[ -z "$capture" ] || capture=$(realpath "$capture")
cd "$root"
install_missing "${build_packages[@]}"

say "building"
release_cargo build --release --locked -p sluiced -p sluice

out=out/quickstart
mkdir -p "$out"
if [ -z "$capture" ]; then
    capture=$out-input.pcap
    say "making a capture of a few conversations"
    release_cargo run --quiet --release --locked -p sluice-tests --bin make-capture -- "$capture"
fi

say "replaying $capture through examples/quickstart.toml"
"${CARGO_TARGET_DIR:-target}/release/sluiced" replay --policy examples/quickstart.toml --in "$capture" --out "$out"
say "the copies, one file per destination; open them in Wireshark:"
ls -l "$out"/*.pcap
