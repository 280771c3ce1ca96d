#!/usr/bin/env bash
# Measures one worker core: ./perf/run.sh [SCENARIO...] [--json] [--breakdown] [--core CPU] [--main-core CPU]
# `./perf/run.sh --help` shows all options. As root it reserves hugepages for the time of the run.
. "$(dirname "${BASH_SOURCE[0]}")/../scripts/lib.sh"
cd "$root"

install_missing "${build_packages[@]}" dpdk
say "building"
cargo build --release --locked --quiet -p sluice-perf

# Megabytes of hugepages that a scenario and testpmd need, one after the other.
need_mb=512
pages=/proc/sys/vm/nr_hugepages
pages_before=
mounted=
give_back() {
    [ -z "$pages_before" ] || echo "$pages_before" >"$pages" || true
    [ -z "$mounted" ] || { umount "$mounted" && rmdir "$mounted"; } || true
}
trap give_back EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

free_pages() { awk '/^HugePages_Free:/ { print $2 }' /proc/meminfo; }
# Makes the wanted hugepages free, or fails; notes what to give back.
reserve() {
    local size_kb wanted missing
    size_kb=$(awk '/^Hugepagesize:/ { print $2 }' /proc/meminfo)
    [ -n "$size_kb" ] || return 1
    wanted=$((need_mb * 1024 / size_kb))
    missing=$((wanted - $(free_pages)))
    if [ "$missing" -gt 0 ]; then
        [ -w "$pages" ] || return 1
        pages_before=$(cat "$pages")
        echo $((pages_before + missing)) >"$pages" || return 1
        [ "$(free_pages)" -ge "$wanted" ] || return 1
    fi
    if ! grep -q ' hugetlbfs ' /proc/mounts; then
        mounted=$(mktemp -d)
        mount -t hugetlbfs none "$mounted" || return 1
    fi
}

arguments=("$@")
if [ "$(id -u)" -eq 0 ] && reserve; then
    arguments+=(--hugepages)
else
    say "no hugepages (not root, or no memory in one piece): ordinary pages"
fi
"${CARGO_TARGET_DIR:-target}/release/sluice-perf" "${arguments[@]}"
