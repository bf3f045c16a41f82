#!/usr/bin/env bash
# Makes a release of the commit that is checked out, reproducibly: builds it twice in two folders, and goes on only if the
# bytes agree.
#
#   bash docs/deploy/release.sh OUT
#   bash docs/deploy/release.sh --once OUT    builds it once, where the result is going to be compared with another's anyway
#
# OUT then holds
#
#   vizard-VERSION-TRIPLE        the program, static
#   vizard_VERSION_ARCH.deb      the Debian package
#   vizard-VERSION.cdx.json      what it is made of (CycloneDX)
#   SHA256SUMS                   of all of them
#
# Takes cargo-deb and cargo-cyclonedx (cargo install), dpkg-dev, git, and the Rust of `rustc --version` in the notes of the
# release: another compiler makes other bytes.
set -euo pipefail
once=false
if [[ ${1:-} == --once ]]; then
    once=true
    shift
fi
(($# == 1)) || { sed -n '5,6p' "$0" | cut -c3- >&2; exit 2; }
# Anyone who makes it has a language, and rights that files get by themselves.
export LC_ALL=C
umask 022
cd "$(dirname "$0")/../.."
mkdir -p "$1"
out=$(cd "$1" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

triple=$(rustc -vV | sed -n 's/^host: //p')
version=$(sed -n '/^\[package\]/,/^\[/s/^version = "\(.*\)"/\1/p' Cargo.toml)
crates=${CARGO_HOME:-$HOME/.cargo}
sysroot=$(rustc --print sysroot)
commit=$(rustc -vV | sed -n 's/^commit-hash: //p')
# Folders by what they are called in the program. Of two that match the later one counts: that of a registry is called
# after where crates are fetched from, and the sources of the standard library may be there or not.
cargo fetch --locked --target "$triple"
places=("$crates=/cargo")
for folder in "$crates"/registry/src/*; do places+=("$folder=/cargo/registry"); done
places+=("$sysroot=/rust" "$sysroot/lib/rustlib/src/rust=/rustc/$commit")
# Every time that is written down anywhere is that of the commit.
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)
export SOURCE_DATE_EPOCH

# build FOLDER [FLAG...]: the program in a copy of the commit, without a trace of where that is.
build() {
    local folder=$1 maps map flags=()
    mkdir -p "$folder"
    git archive HEAD | tar --extract --directory "$folder"
    maps=("$folder=/vizard" "${places[@]}")
    for map in "${maps[@]}"; do flags+=("--remap-path-prefix=$map"); done
    (
        cd "$folder"
        export CARGO_TARGET_DIR=$folder/target RUSTFLAGS="${flags[*]} ${*:2}"
        # C and assembly that some crates bring.
        CFLAGS=$(printf -- '-ffile-prefix-map=%s ' "${maps[@]}")
        export CFLAGS CXXFLAGS=$CFLAGS
        cargo build --release --locked --bin vizard --target "$triple"
    )
}

static=(-C target-feature=+crt-static)
build "$work/one" "${static[@]}"
built=target/$triple/release/vizard
if ! $once; then
    build "$work/a-folder-with-another-name/two" "${static[@]}"
    cmp "$work/one/$built" "$work/a-folder-with-another-name/two/$built"
fi
if strings "$work/one/$built" | grep --fixed-strings --max-count 3 --regexp "$work" --regexp "$crates"; then
    echo "the program knows where it was built" >&2
    exit 1
fi
install -m 0755 "$work/one/$built" "$out/vizard-$version-$triple"

# A package is for one distribution, and takes that one's C library.
build "$work/deb"
(
    cd "$work/deb"
    CARGO_TARGET_DIR=$work/deb/target bash docs/deploy/package.sh --built "$triple"
)
cp "$work/deb/target/$triple/release/package/vizard.deb" "$out/vizard_${version}_$(dpkg --print-architecture).deb"

# The time in it is that of the commit as well.
(
    cd "$work/one"
    cargo cyclonedx --format json --spec-version 1.5 --target "$triple" --no-build-deps --override-filename vizard.cdx
)
sed "s|$work/one|/vizard|g" "$work/one/vizard.cdx.json" >"$out/vizard-$version.cdx.json"

(cd "$out" && sha256sum vizard[-_]"$version"* >SHA256SUMS)
cat "$out/SHA256SUMS"
