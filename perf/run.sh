#!/usr/bin/env bash
# Measures worker cores: ./perf/run.sh [SCENARIO[@SIZE]...] [--json] [--breakdown] [--core CPU] [--main-core CPU]
# `./perf/run.sh ring-to-parquet CAPTURE [RECORDS [ROUNDS]]` measures how flow records become Parquet files instead.
# `./perf/run.sh --plot DIR` runs what the pictures of docs/benchmarks.md need (or the scenarios named, if any), and
# writes them with their figures (benchmarks.jsonl) to DIR. `./perf/run.sh --help` shows all options.
# As root it reserves hugepages for the time of the run.
. "$(dirname "${BASH_SOURCE[0]}")/../scripts/lib.sh"
cd "$root"

if [ "${1:-}" = ring-to-parquet ]; then
    [ -n "${2:-}" ] || die "ring-to-parquet needs a capture: its flow records are the patterns"
    capture=$(cd "$OLDPWD" && realpath -- "$2")
    install_missing "${build_packages[@]}"
    release_cargo run --release --locked --quiet -p sluice-perf --example parquet_speed -- "$capture" "${@:3}"
    exit
fi

plot=
json=
arguments=()
while [ $# -gt 0 ]; do
    case $1 in
        --plot)
            [ -n "${2:-}" ] || die "--plot needs a folder to write to"
            plot=$(cd "$OLDPWD" && realpath -m -- "$2")
            shift
            ;;
        --json) json=--json ;;
        *) arguments+=("$1") ;;
    esac
    shift
done
[ -z "$plot" ] || json=--json
[ -z "$json" ] || arguments+=("$json")

# dpdk-testpmd, the reference, is in dpdk-dev.
install_missing "${build_packages[@]}" dpdk-dev
[ -z "$plot" ] || install_missing python3
say "building"
release_cargo build --release --locked --quiet -p sluice-perf

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

if [ -n "$plot" ]; then
    mkdir -p "$plot"
    named=
    for argument in "${arguments[@]}"; do
        [[ ! $argument =~ ^(full|established|all) ]] || named=yes
    done
    [ -n "$named" ] || arguments+=(full-{10k,30k,100k,300k,1m} established-{10,100,1000,10000})
fi
if [ "$(id -u)" -eq 0 ] && reserve; then
    arguments+=(--hugepages)
else
    say "no hugepages (not root, or no memory in one piece): ordinary pages"
fi
perf=${CARGO_TARGET_DIR:-target}/release/sluice-perf
if [ -n "$plot" ]; then
    "$perf" "${arguments[@]}" | tee "$plot/benchmarks.jsonl"
    python3 perf/plot.py "$plot/benchmarks.jsonl" "$plot"
else
    "$perf" "${arguments[@]}"
fi
