#!/usr/bin/env bash
# A small Internet for one test, which vanishes with it.
#
#   world.sh hold                     build it, print "ready PID", keep it until stdin ends
#   world.sh exec PID PLACE CMD...    run a command in one of its places
#
# The places are three network namespaces:
#
#   client    198.51.100.20  2001:db8:51::20    reaches nothing but the proxy
#   proxy     198.51.100.10  2001:db8:51::10    between the two
#   internet  203.0.113.2      2001:db8:78::2            cover sites, and every address of Telegram's
#
# What reaches a data centre from `client` went through the proxy, and the proxy
# needs no test mode to get there. The client's link has Ethernet's MTU and no
# segmentation offload, so a long ClientHello comes in more than one segment, as
# in life. The name cover.example is the address of `internet`.
#
# Everything lives in mount, process and network namespaces below one process.
# When that ends, also by a kill, the kernel removes the rest: nothing has a name
# outside, nothing is left behind, and any number of worlds stand side by side.
# Without root the same is built in a user namespace.
#
# Needs: bash, util-linux, iproute2.

set -euo pipefail

IPV4_PREFIXES=(
    149.154.160.0/20 91.108.4.0/22 91.108.8.0/22 91.108.12.0/22 91.108.16.0/22
    91.108.20.0/22 91.108.56.0/22 91.105.192.0/23 185.76.151.0/24 95.161.64.0/20
)
IPV6_PREFIXES=(
    2001:67c:4e8::/48 2001:b28:f23c::/48 2001:b28:f23d::/48 2001:b28:f23f::/48 2a0a:f280::/32
)

usage() {
    sed -n '4,5p' "$0" | cut -c3- >&2
    exit 2
}

user_namespace() {
    if ((EUID != 0)); then echo "$1"; fi
}

hold() {
    # shellcheck disable=SC2046  # no word at all for root
    exec unshare $(user_namespace --map-root-user) \
        --mount --net --pid --fork --kill-child -- bash "$0" inside
}

inside() {
    local outer
    # The /proc of the outer world still tells the number that others know this process by.
    read -r outer _ </proc/self/stat
    mount -t proc proc /proc
    mount -t tmpfs tmpfs /run
    names
    places
    prefixes
    echo "ready $outer"
    cat >/dev/null
}

names() {
    printf '%s\n' '127.0.0.1 localhost' '::1 localhost' '203.0.113.2 cover.example' '2001:db8:78::2 cover.example' >/run/hosts
    mount --bind /run/hosts /etc/hosts
    # Without a resolver a name that is not in the hosts file fails at once. A link into the covered /run ends
    # nowhere, which comes to the same.
    if [[ -e /etc/resolv.conf ]]; then
        echo 'nameserver 127.0.0.1' >/run/resolv.conf
        mount --bind /run/resolv.conf /etc/resolv.conf
    fi
}

places() {
    local place
    for place in client proxy internet; do
        ip netns add "$place"
        ip -n "$place" link set lo up
    done
    ip -n proxy link add eth0 type veth peer name eth0 netns client
    ip -n proxy link add eth1 type veth peer name eth0 netns internet
    join client eth0 198.51.100.20/24 2001:db8:51::20/64 gso_max_segs 1
    join proxy eth0 198.51.100.10/24 2001:db8:51::10/64 gso_max_segs 1
    join proxy eth1 203.0.113.1/24 2001:db8:78::1/64
    join internet eth0 203.0.113.2/24 2001:db8:78::2/64
    ip -n proxy route add default via 203.0.113.2 src 198.51.100.10
    ip -n proxy -6 route add default via 2001:db8:78::2 src 2001:db8:51::10
    ip -n internet route add 198.51.100.0/24 via 203.0.113.1
    ip -n internet -6 route add 2001:db8:51::/64 via 2001:db8:78::1
    # Whatever else the proxy dials is refused at once; unrouted packets would just disappear.
    # shellcheck disable=SC2016  # $1 is the inner shell's
    nsenter --net=/run/netns/internet -- bash -c 'for file in "$@"; do echo 1 >"$file"; done' bash \
        /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv6/conf/all/forwarding
    ip -n internet route add unreachable default
    ip -n internet -6 route add unreachable default
}

join() {
    local place=$1 device=$2 ipv4=$3 ipv6=$4
    shift 4
    ip -n "$place" address add "$ipv4" dev "$device"
    ip -n "$place" address add "$ipv6" dev "$device" nodad
    ip -n "$place" link set "$device" mtu 1500 "$@" up
}

prefixes() {
    local prefix
    for prefix in "${IPV4_PREFIXES[@]}"; do ip -n internet route add local "$prefix" dev lo; done
    for prefix in "${IPV6_PREFIXES[@]}"; do ip -n internet -6 route add local "$prefix" dev lo; done
}

enter() {
    local pid=$1 place=$2
    shift 2
    # shellcheck disable=SC2046
    exec nsenter --target "$pid" $(user_namespace --user) $(user_namespace --preserve-credentials) --mount --pid -- \
        nsenter --net="/run/netns/$place" -- "$@"
}

case ${1:-} in
    hold) hold ;;
    inside) inside ;;
    exec)
        if (($# < 4)); then usage; fi
        shift
        enter "$@"
        ;;
    *) usage ;;
esac
