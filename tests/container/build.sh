#!/bin/sh
# build.sh SOURCE CACHE OUT: builds the image of SOURCE/Dockerfile and lays it out in OUT.
#
#   OUT/image.json   what buildah knows about the image
#   OUT/rootfs       its files
#   CACHE            what the next build is quicker with
#
# No image is fetched from anywhere: the builder is Debian's C compiler, unpacked here, with this machine's Rust and its
# crates mounted read-only. Images live in OUT alone, and only while this script runs.
set -eu
source=$1 cache=$2 out=$3
store=$out/store
toolchain=$(rustc --print sysroot)
crates=${CARGO_HOME:-$HOME/.cargo}

images() {
    TMPDIR=$store.tmp buildah --root "$store" --runroot "$store.run" "$@"
}

# Layers stay mounted until their containers are gone, and only then may the store be removed.
forget_images() {
    images rm --all >/dev/null 2>&1 || true
    umount "$store/overlay" 2>/dev/null || true
    rm -rf --one-file-system "$store" "$store.run" "$store.tmp"
}
trap forget_images EXIT
trap 'exit 1' HUP INT TERM

mkdir -p "$cache/target" "$store.tmp"
# Renamed when whole, so that a build that was interrupted leaves nothing that looks like a base.
if [ ! -e "$cache/base.tar" ]; then
    mmdebstrap --quiet --variant=essential --include=gcc,libc6-dev bookworm "$cache/base.part.tar"
    mv "$cache/base.part.tar" "$cache/base.tar"
fi

base=$(images from scratch)
images add --quiet "$base" "$cache/base.tar" / >/dev/null
images config --env PATH=/opt/rust/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    --env CARGO_HOME=/opt/cargo --env CARGO_NET_OFFLINE=true "$base"
# The program is not optimised: nothing here is measured, and that takes minutes.
images config --env CARGO_PROFILE_RELEASE_OPT_LEVEL=0 --env CARGO_PROFILE_RELEASE_LTO=off \
    --env CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 --env CARGO_INCREMENTAL=0 "$base"
images commit --quiet --rm "$base" localhost/builder >/dev/null

set -- --volume "$toolchain:/opt/rust:ro" --volume "$crates/registry:/opt/cargo/registry:ro"
# Where crates come from is part of their names in the folder above.
for config in config config.toml; do
    [ ! -f "$crates/$config" ] || set -- "$@" --volume "$crates/$config:/opt/cargo/$config:ro"
done
# The health check is only part of images in Docker's own format.
images bud --isolation chroot --format docker --pull-never --build-arg BUILDER=localhost/builder "$@" \
    --volume "$cache/target:/src/target" --tag localhost/vizard "$source"

images inspect --type image localhost/vizard >"$out/image.json"
image=$(images from --pull-never localhost/vizard)
cp -a "$(images mount "$image")" "$out/rootfs"
