#!/usr/bin/env python3
"""A mock middle proxy between a proxy with a promoted channel and `mock_dc.py`.

It opens links as Telegram's middle proxies do (nonces, key schedule, AES-CBC,
CRC-32C), takes every RPC_PROXY_REQ apart, and hands the packet of each client on
to the data centre over a connection of its own, in intermediate framing behind
an obfuscation header.  Answers and quick acks go back the same way.

    mock_middle.py --secret FILE --log FILE PORT=NUMBER@ADDRESS...

Each PORT stands for the data centre NUMBER, which is reached at ADDRESS:443.
What was heard goes to the log as one JSON object for each client.  A line
"ready" on stdout says that it listens.

Needs: Python 3.9+, `cryptography`.
"""

import argparse
import asyncio
import hashlib
import ipaddress
import json
import os
import struct
import time
import zlib

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

NONCE, HANDSHAKE = 0x7ACB87AA, 0x7682EEF5
REQUEST, ANSWER, ACK = 0x36CEF1EE, 0x4403DA0D, 0x3BAC409B
CLOSE_CONN, CLOSE_EXT, PING, PONG = 0x1FCF425D, 0x5EB634A2, 0x5730A2DF, 0x8430EAA7
PADDING = struct.pack("<I", 4)


def castagnoli_table():
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return table


TABLE = castagnoli_table()


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def keys(secret, theirs, ours, their_nonce, our_nonce, their_time, purpose):
    """`theirs` is the proxy's end of the connection, `ours` the middle proxy's."""
    addresses = [ipaddress.ip_address(end[0]) for end in (theirs, ours)]
    old = [a.packed[::-1] if a.version == 4 else bytes(4) for a in addresses]
    new = b"".join(a.packed for a in addresses if a.version == 6)
    s = our_nonce + their_nonce + their_time + old[1] + struct.pack("<H", theirs[1]) + purpose
    s += old[0] + struct.pack("<H", ours[1]) + secret + our_nonce + new + their_nonce
    key = hashlib.md5(s[1:]).digest()[:12] + hashlib.sha1(s).digest()
    return Cipher(algorithms.AES(key), modes.CBC(hashlib.md5(s[2:]).digest()))


class Link:
    def __init__(self, reader, writer, place, secret, log):
        self.reader, self.writer, self.place, self.secret, self.log = reader, writer, place, secret, log
        self.plain, self.sealed, self.clients = b"", b"", {}
        self.read_number, self.write_number, self.checksum = -1, -1, zlib.crc32

    def frame(self, number, payload):
        head = struct.pack("<Ii", len(payload) + 12, number) + payload
        return head + struct.pack("<I", self.checksum(head))

    def send(self, payload):
        data = self.frame(self.write_number, payload)
        self.write_number += 1
        while len(data) % 16:
            data += PADDING
        self.writer.write(self.encrypt(data))

    async def fill(self):
        data = await self.reader.read(65536)
        if not data:
            raise EOFError
        self.sealed += data
        whole = len(self.sealed) // 16 * 16
        self.plain += self.decrypt(self.sealed[:whole])
        self.sealed = self.sealed[whole:]

    async def payload(self):
        while True:
            while self.plain.startswith(PADDING):
                self.plain = self.plain[4:]
            if len(self.plain) >= 4:
                length = struct.unpack("<I", self.plain[:4])[0]
                if len(self.plain) >= length:
                    frame, self.plain = self.plain[:length], self.plain[length:]
                    assert frame == self.frame(self.read_number, frame[8:-4]), "a frame that no one made"
                    self.read_number += 1
                    return frame[8:-4]
            await self.fill()

    async def serve(self):
        hello = await self.reader.readexactly(44)
        head, selector, schema = struct.unpack("<I4sI", hello[8:20])
        assert (head, selector, schema) == (NONCE, self.secret[:4], 1)
        nonce = os.urandom(16)
        answer = struct.pack("<I4sII", NONCE, selector, 1, int(time.time())) + nonce
        self.writer.write(self.frame(-2, answer))
        ends = [self.writer.get_extra_info(name)[:2] for name in ("peername", "sockname")]
        # A socket for both families names old addresses in the new way.
        ends = [(end[0].removeprefix("::ffff:"), end[1]) for end in ends]
        schedule = [keys(self.secret, *ends, hello[24:40], nonce, hello[20:24], way) for way in (b"CLIENT", b"SERVER")]
        self.decrypt, self.encrypt = schedule[0].decryptor().update, schedule[1].encryptor().update
        handshake = await self.payload()
        assert struct.unpack("<I", handshake[:4])[0] == HANDSHAKE
        self.send(struct.pack("<II", HANDSHAKE, 0x800) + bytes(12) + handshake[8:20])
        self.checksum = crc32c
        while True:
            await self.take(await self.payload())
            await self.writer.drain()

    async def take(self, payload):
        kind, number = struct.unpack("<I", payload[:4])[0], payload[4:12]
        if kind == REQUEST:
            await self.request(payload)
        elif kind == CLOSE_CONN:
            client = self.clients.pop(number, None)
            if client:
                client.writer.close()
        elif kind == PING:
            self.send(struct.pack("<I", PONG) + number)

    async def request(self, payload):
        flags, number = struct.unpack("<I", payload[4:8])[0], payload[8:16]
        tag, packet = None, payload[56:]
        if flags & 8:
            extra = struct.unpack("<I", packet[:4])[0]
            tag, packet = packet[9:25].hex(), packet[4 + extra :]
        if number not in self.clients:
            client = {"client": str(ipaddress.ip_address(payload[16:32]).ipv4_mapped), "tag": tag, "dc": self.place[0]}
            self.log.write(json.dumps(client) + "\n")
            self.log.flush()
            self.clients[number] = await Client.open(self, number)
        await self.clients[number].send(packet, flags & 1 << 31)


class Client:
    """A client's connection to the data centre."""

    @classmethod
    async def open(cls, link, number):
        self = cls()
        self.link, self.number = link, number
        dc, address = link.place
        self.reader, self.writer = await asyncio.open_connection(address, 443)
        plain = bytearray(b"\x01" + os.urandom(63))
        plain[56:62] = b"\xee\xee\xee\xee" + struct.pack("<h", dc)
        ctr = lambda block: Cipher(algorithms.AES(bytes(block[:32])), modes.CTR(bytes(block[32:]))).encryptor()
        self.up, self.down = ctr(plain[8:56]), ctr(plain[8:56][::-1])
        self.writer.write(bytes(plain[:56]) + self.up.update(bytes(plain))[56:])
        asyncio.ensure_future(self.listen())
        return self

    async def send(self, packet, quick_ack):
        self.writer.write(self.up.update(struct.pack("<I", len(packet) | quick_ack) + packet))
        await self.writer.drain()

    async def listen(self):
        try:
            while True:
                word = self.down.update(await self.reader.readexactly(4))
                length = struct.unpack("<I", word)[0]
                if length & 1 << 31:
                    self.link.send(struct.pack("<I", ACK) + self.number + word)
                else:
                    packet = self.down.update(await self.reader.readexactly(length))
                    self.link.send(struct.pack("<II", ANSWER, 0) + self.number + packet)
                await self.link.writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            if self.link.clients.pop(self.number, None):
                self.link.send(struct.pack("<I", CLOSE_EXT) + self.number)


async def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--secret", required=True)
    parser.add_argument("--log", required=True)
    parser.add_argument("places", nargs="+", metavar="PORT=NUMBER@ADDRESS")
    arguments = parser.parse_args()
    with open(arguments.secret, "rb") as file:
        secret = file.read()
    log = open(arguments.log, "w")
    servers = []
    for place in arguments.places:
        port, _, rest = place.partition("=")
        number, _, address = rest.partition("@")

        async def accept(reader, writer, place=(int(number), address)):
            try:
                await Link(reader, writer, place, secret, log).serve()
            except (EOFError, ConnectionError, asyncio.IncompleteReadError):
                writer.close()

        servers.append(await asyncio.start_server(accept, "0.0.0.0", int(port)))
    print("ready", flush=True)
    await asyncio.gather(*(server.serve_forever() for server in servers))


asyncio.run(main())
