#!/usr/bin/env bash
# throwaway.sh SCRIPT FILE...: runs SCRIPT with the files on a copy of this machine's file system. Whatever it does there is
# gone afterwards. Takes root and a mount namespace of its own (unshare --mount).
set -euo pipefail
script=$1
shift

. "$(dirname "$0")/copy.sh"
layers=$(mktemp -d)
copy "$layers"
mount -t tmpfs tmpfs "$layers/root/tmp"
mkdir -p "$layers/root/dev"
mount --rbind /dev "$layers/root/dev"

inside=()
for file in "$script" "$@"; do
    cp "$file" "$layers/root/tmp/"
    inside+=("/tmp/$(basename "$file")")
done
# What apt keeps is of no use here, and no service is to be started.
exec env --ignore-environment PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root DEBIAN_FRONTEND=noninteractive \
    chroot "$layers/root" bash -euxo pipefail "${inside[@]}"
