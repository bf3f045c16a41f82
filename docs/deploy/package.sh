#!/usr/bin/env bash
# Makes the Debian package, and prints where it is. Takes cargo-deb (cargo install cargo-deb) and dpkg-dev.
#
#   bash docs/deploy/package.sh                   builds the program, and packs it
#   bash docs/deploy/package.sh --debug           packs the unoptimised program that `cargo build` has left, to try it out
#   bash docs/deploy/package.sh --built TRIPLE    packs what `cargo build --release --target TRIPLE` has left
set -euo pipefail
cd "$(dirname "$0")/../.."

target=$(cargo metadata --format-version 1 --no-deps --locked | sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p')
options=(--profile release) built=$target/release
case "$# ${1:-}" in
    '0 ') cargo build --release --locked --bin vizard >&2 ;;
    '1 --debug')
        # cargo-deb is for releases, and packs no profile of this name.
        options=(--profile trial --fast) built=$target/trial
        install -D "$target/debug/vizard" "$built/vizard"
        ;;
    '2 --built') options+=(--target "$2") built=$target/$2/release ;;
    *)
        sed -n '4,6p' "$0" | cut -c3- >&2
        exit 2
        ;;
esac
program=$built/vizard made=$built/package

# What the program says of itself, and compressed what Debian wants compressed.
rm -rf "$made"
mkdir -p "$made/completions"
"$program" generate man "$made/man"
gzip --best --no-name "$made"/man/*
gzip --best --no-name --stdout docs/deploy/debian/changelog >"$made/changelog.gz"
"$program" generate completions bash >"$made/completions/vizard"
"$program" generate completions zsh >"$made/completions/_vizard"
"$program" generate completions fish >"$made/completions/vizard.fish"

cargo deb --locked --no-build "${options[@]}" --output "$made/vizard.deb" >&2
echo "$made/vizard.deb"
