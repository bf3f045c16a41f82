#!/usr/bin/env bash
# Runs every fuzz target for some seconds from its corpus, as a continuous integration does; a finding is a failure.
#
#   bash tests/fuzz/run.sh SECONDS [TARGET...]
#
# Builds as cargo-fuzz does, but without it, and without a sanitizer: there is no unsafe code of ours that one could watch.
# For hours of fuzzing there is cargo-fuzz (docs/contributing.md, "Fuzzing").
set -euo pipefail
cd "$(dirname "$0")"
seconds=${1:?how many seconds for each target}
shift
target=${CARGO_TARGET_DIR:-../../target}/fuzz
triple=$(rustc -vV | sed -n 's/^host: //p')

# What libFuzzer follows: which edges were taken, and what was compared with what.
flags=(-Cpasses=sancov-module)
for option in level=4 inline-8bit-counters pc-table trace-compares; do
    flags+=("-Cllvm-args=-sanitizer-coverage-$option")
done
# Cargo.lock here follows the dependencies of the package that is fuzzed, so it is not held to what it was.
# Only a named target keeps the flags away from build scripts, which are no fuzz targets.
RUSTFLAGS="${flags[*]}" cargo build --quiet --target "$triple" --target-dir "$target"

wanted=("$@")
if ((!$#)); then
    for file in fuzz_targets/*.rs; do wanted+=("$(basename "$file" .rs)"); done
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# fuzz NAME: what is new goes to a folder of its own, so that the corpus stays as it is.
fuzz() {
    mkdir -p "$work/$1" artifacts
    "$target/$triple/debug/$1" "$work/$1" "corpus/$1" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 \
        -artifact_prefix="artifacts/$1-" >"$work/$1.log" 2>&1 ||
        { cat "$work/$1.log" && return 1; }
    echo "$1: $(grep --only-matching '^Done [0-9]* runs' "$work/$1.log")"
}
export -f fuzz
export target triple work seconds
printf '%s\n' "${wanted[@]}" | xargs --max-procs "$(nproc)" --replace bash -euc 'fuzz {}'
