#!/usr/bin/env bash
# Prints what can be counted about the source (tests/operator/house.rs holds it), and with --times how long builds take.
#
#   bash tests/house.sh            the numbers
#   bash tests/house.sh --times    builds from nothing in a folder of their own, which takes half an hour on two cores

set -euo pipefail
cd "$(dirname "$0")/.."

numbers() {
    cargo test --config tests/profile.toml --locked --test operator -- --nocapture house::the_numbers |
        grep --extended-regexp '^ *[0-9.]+ '
}

# Seconds by the clock of a command.
timed() {
    local what=$1 began=$SECONDS
    shift
    "$@" >/dev/null 2>&1
    printf '%5d s  %s\n' $((SECONDS - began)) "$what"
}

times() {
    local folder
    folder=$(mktemp --directory)
    trap 'rm -rf "$folder"' EXIT
    export CARGO_TARGET_DIR=$folder
    timed "cargo build --release, from nothing (goal 360)" cargo build --release --locked
    timed "cargo test --no-run, from nothing (goal 480)" cargo test --config tests/profile.toml --locked --no-run
    touch src/relay/mod.rs
    timed "the same after a change in relay (goal 60)" cargo test --config tests/profile.toml --locked --no-run
}

case ${1:-} in
    '') numbers ;;
    --times) times ;;
    *) sed -n 's/^# \{0,1\}//; 2,/^$/p' "$0" >&2 && exit 2 ;;
esac
