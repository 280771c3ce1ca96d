#!/usr/bin/env bash
# Is the Debian package of this commit the same wherever it is built? Builds it twice, in clones with other paths, from
# nothing, and compares. Takes two release builds.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$root"
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
packages=()
for clone in one another/place; do
    say "building in $clone"
    git clone --quiet "$root" "$folder/$clone"
    env -u CARGO_TARGET_DIR "$folder/$clone/scripts/package.sh" >&2
    packages+=("$folder/$clone"/target/package/*.deb)
done
sha256sum "${packages[@]}"
cmp "${packages[@]}" || die "the packages differ; diffoscope says where"
say "the same"
