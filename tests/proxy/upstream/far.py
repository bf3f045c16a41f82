#!/usr/bin/env python3
"""Makes an address of this machine a far one.

    far.py FAR NEAR SECONDS

Anyone who connects to FAR reaches who listens on NEAR, which is an IPv4 address of this machine, and every packet takes half
of SECONDS on its way. It says "ready" once that is so. Packets leave by a device that this program reads; it writes them
back with other addresses, as a router far away that translates them would.

Needs root in its network namespace, and iproute2.
"""

import fcntl
import heapq
import os
import select
import socket
import struct
import subprocess
import sys
import time

TUNSETIFF = 0x400454CA
IFF_TUN = 0x0001
IFF_NO_PI = 0x1000
DEVICE = "far"
# How those who connect look to the one who listens.
VISITOR = "198.18.0.9"


def main():
    far, near, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])
    tunnel = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(tunnel, TUNSETIFF, struct.pack("16sH22x", DEVICE.encode(), IFF_TUN | IFF_NO_PI))
    for command in (
        f"address add 198.18.0.1/32 dev {DEVICE}",
        f"link set {DEVICE} up",
        f"route add {far}/32 dev {DEVICE} src 198.18.0.1",
        f"route add {VISITOR}/32 dev {DEVICE}",
    ):
        subprocess.run(["ip", *command.split()], check=True)
    print("ready", flush=True)
    carry(tunnel, Translator(far, near), seconds / 2)


def carry(tunnel, translator, delay):
    waiting, count = [], 0
    while True:
        now = time.monotonic()
        while waiting and waiting[0][0] <= now:
            os.write(tunnel, heapq.heappop(waiting)[2])
        patience = waiting[0][0] - now if waiting else None
        if select.select([tunnel], [], [], patience)[0]:
            packet = translator.translate(bytearray(os.read(tunnel, 65536)))
            if packet:
                count += 1
                heapq.heappush(waiting, (time.monotonic() + delay, count, packet))


class Translator:
    def __init__(self, far, near):
        self.far, self.near = socket.inet_aton(far), socket.inet_aton(near)
        self.visitor, self.ours = socket.inet_aton(VISITOR), None

    def translate(self, packet):
        """The packet with other addresses; None for what is no TCP between the two."""
        if packet[0] >> 4 != 4 or packet[9] != socket.IPPROTO_TCP:
            return None
        source, target = bytes(packet[12:16]), bytes(packet[16:20])
        if target == self.far:
            self.ours = source
            packet[12:16], packet[16:20] = self.visitor, self.near
        elif target == self.visitor and source == self.near:
            packet[12:16], packet[16:20] = self.far, self.ours
        else:
            return None
        header = (packet[0] & 15) * 4
        packet[10:12] = b"\0\0"
        packet[10:12] = checksum(packet[:header])
        segment = packet[header:]
        segment[16:18] = b"\0\0"
        pseudo = packet[12:20] + struct.pack("!BBH", 0, socket.IPPROTO_TCP, len(segment))
        packet[header + 16 : header + 18] = checksum(pseudo + segment)
        return bytes(packet)


def checksum(data):
    if len(data) % 2:
        data = data + b"\0"
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return struct.pack("!H", ~total & 0xFFFF)


if __name__ == "__main__":
    main()
