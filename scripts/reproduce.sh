#!/usr/bin/env bash
# Is the Debian package of this commit the same wherever it is built? Builds it twice, in clones with other paths, from
# nothing, and compares. Takes two release builds.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$root"
install_missing git
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
cmp "${packages[@]}" || {
    trap - EXIT
    die "the packages differ; they stay where they are, and diffoscope says where"
}
say "the same"
