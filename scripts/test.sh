#!/usr/bin/env bash
# Everything that must pass, with the time that each step takes.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$root"

install_missing "${build_packages[@]}" "${test_packages[@]}"

times=()
step() { # step NAME COMMAND...
    local name=$1 start=$SECONDS
    shift
    say "$name"
    "$@"
    times+=("$(printf '%5d s  %s' $((SECONDS - start)) "$name")")
}

# All tests; what they print comes at once, and is summed up whatever the end.
tests() {
    local target=${CARGO_TARGET_DIR:-$root/target} status=0
    local log=$target/test.log
    export SLUICE_LEFT_OUT=$target/left-out.txt
    rm -f "$SLUICE_LEFT_OUT"
    cargo test --workspace --all-targets --locked --no-fail-fast 2>&1 | tee "$log" || status=$?
    scripts/test-summary.py "$log" "$SLUICE_LEFT_OUT" || [ $status -ne 0 ] || status=1
    return $status
}

# The protos keep to the list of this commit, and that one to those of all commits before: a line that is changed in
# both would pass the first. Without history, as in an archive, there is nothing to hold it against.
promises() {
    local list=controlplane/api/proto/sluice/v1/fields.txt gone
    cargo test --workspace --test field_table --locked --quiet
    gone=$(git log --format= --patch -- "$list" 2>/dev/null | grep '^-[^-]' || true)
    if [ -n "$gone" ]; then
        printf '%s: these lines were promised, and a commit took them back; put them in again:\n%s\n' "$list" "$gone" >&2
        return 1
    fi
}

# The readers of the Parquet files: pyarrow, DuckDB, DataFusion.
analytics=${CARGO_TARGET_DIR:-$root/target}/analytics
python_with "$analytics" "$root/tests/analytics/requirements.txt"
export SLUICE_ANALYTICS_PYTHON=$analytics/bin/python

export SLUICED=${CARGO_TARGET_DIR:-$root/target}/release/sluiced
export SLUICE=${CARGO_TARGET_DIR:-$root/target}/release/sluice
step "format" cargo fmt --all --check
step "arrows between crates" scripts/check-arrows.py
step "clippy" cargo clippy --workspace --all-targets --locked --quiet -- -D warnings
step "documentation" env RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked --quiet
step "release build" release_cargo build --release --locked --quiet -p sluiced -p sluice -p sluice-perf
step "documentation examples" cargo test --workspace --doc --locked --quiet
step "promises of the protos" promises
step "package" scripts/package.sh
step "tests" tests

echo
echo "Where the time went:"
printf '%s\n' "${times[@]}"
[ -d "$root/../shared/captures" ] || [ -n "${SLUICE_CAPTURES:-}" ] ||
    echo "Left out: the tests over the collection of real captures (set SLUICE_CAPTURES to its folder)."
