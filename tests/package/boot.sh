#!/usr/bin/env bash
# boot.sh SCRIPT FILE...: starts systemd on a copy of this machine's file system, has it run SCRIPT with the files as a
# service, and ends as that has ended. Whatever it does there is gone afterwards. Takes root. Ends with 77, and says why, where
# the kernel does not give what that takes.
set -euo pipefail

if [[ $1 != --inside ]]; then
    refused() {
        echo "no systemd can be booted here: $1"
        exit 77
    }
    work=$(mktemp -d)
    # A group of its own, below which the new systemd makes its groups, and which is gone afterwards with all of them.
    groups=$(findmnt --noheadings --first-only --types cgroup2 --output TARGET) || refused "there are no groups of processes"
    group=$groups/vizard-boot-$$
    mkdir "$group" || refused "no group of processes can be made"
    remove() {
        rm -r "$work"
        find "$group" -depth -type d -exec rmdir {} +
    }
    trap remove EXIT
    apart() {
        # Not this shell itself, or it would be in the way of removing the group.
        (echo "$BASHPID" >"$group/cgroup.procs" &&
            exec unshare --pid --mount --net --ipc --uts --cgroup --fork --kill-child "$@")
    }
    apart bash -c 'mount --make-rprivate / && mount -t cgroup2 cgroup "$0"' "$work" || refused "the kernel gives no name spaces"
    mkdir "$work/layers"
    touch "$work/said"
    apart bash "$0" --inside "$work" "$@" || status=$?
    cat "$work/said"
    exit "${status:-0}"
fi
work=$2 script=$3
shift 3

. "$(dirname "$0")/copy.sh"
layers=$work/layers root=$work/layers/root
copy "$layers"
# What belongs to the whole machine stays as it is.
mount --bind "$root/proc/sys" "$root/proc/sys"
mount -o remount,bind,ro "$root/proc/sys"
mount -t sysfs -o ro sysfs "$root/sys"
: >"$root/etc/fstab"
# Machines that boot nothing forbid packages to touch services; this one boots.
rm -f "$root/usr/sbin/policy-rc.d"
mount -t cgroup2 cgroup "$root/sys/fs/cgroup"
for folder in dev run tmp; do mount -t tmpfs tmpfs "$root/$folder"; done
for device in null zero full random urandom tty; do
    touch "$root/dev/$device"
    mount --bind "/dev/$device" "$root/dev/$device"
done
ln -s pts/ptmx "$root/dev/ptmx"

# Not in /tmp, which a machine that boots empties.
mkdir "$root/trial"
inside=()
for file in "$script" "$@"; do
    cp -r "$file" "$root/trial/"
    inside+=("/trial/$(basename "$file")")
done
touch "$root/trial/said"
mount --bind "$work/said" "$root/trial/said"
mkdir -p "$root/run/systemd/system"
cat >"$root/run/systemd/system/trial.service" <<EOF
[Unit]
# The machine ends with it.
SuccessAction=exit
FailureAction=exit
[Service]
Type=oneshot
Environment=DEBIAN_FRONTEND=noninteractive HOME=/root
ExecStart=/bin/bash -euxo pipefail ${inside[*]}
StandardOutput=append:/trial/said
StandardError=append:/trial/said
EOF
cd "$root"
mkdir before
# A mere chroot is no root that services could be given a view of their own of.
pivot_root . before
umount --lazy /before
exec env --ignore-environment PATH=/usr/sbin:/usr/bin:/sbin:/bin container=vizard \
    /lib/systemd/systemd --unit=trial.service --log-target=journal
