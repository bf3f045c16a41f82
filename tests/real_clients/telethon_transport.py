"""A FakeTLS transport for Telethon, such as people write for themselves: the package that there is sends no change_cipher_spec,
insists on the length of a ServerHello and has one hello for all times. This one pads its hello to 517 bytes as well, but draws
GREASE values and the order of extensions again each time, takes any legal flight, and fills records to the brim.
"""

import asyncio
import hashlib
import hmac
import os
import random
import time

from telethon.network.connection.tcpmtproxy import ConnectionTcpMTProxyRandomizedIntermediate

HANDSHAKE, CHANGE_CIPHER_SPEC, DATA = 22, 20, 23
HEAD = 5
# From the first byte of the record.
RANDOM = slice(11, 43)
LENGTH = 517
LONGEST = 16384


def counted(size, data):
    return len(data).to_bytes(size, "big") + data


def extension(kind, data):
    return kind.to_bytes(2, "big") + counted(2, data)


def grease():
    return bytes([random.choice(range(0x0A, 0x100, 0x10))] * 2)


def hello(key, name):
    """A signed ClientHello in its record."""
    group = grease()
    share = group + counted(2, b"\0") + b"\0\x1d" + counted(2, os.urandom(31) + b"\0")
    inner = [
        extension(0, counted(2, b"\0" + counted(2, name))),
        extension(5, b"\1\0\0\0\0"),
        extension(10, counted(2, group + bytes.fromhex("001d00170018"))),
        extension(11, b"\1\0"),
        extension(13, counted(2, bytes.fromhex("0403080404010503080505010806 0601"))),
        extension(16, counted(2, counted(1, b"h2") + counted(1, b"http/1.1"))),
        extension(18, b""),
        extension(23, b""),
        extension(27, b"\2\0\2"),
        extension(35, b""),
        extension(43, counted(1, grease() + bytes.fromhex("03040303"))),
        extension(45, b"\1\1"),
        extension(51, counted(2, share)),
        extension(0xFF01, b"\0"),
    ]
    random.shuffle(inner)
    suites = grease() + bytes.fromhex("130113021303c02bc02fc02cc030cca9cca8c013c014009c009d002f0035")
    start = b"\3\3" + bytes(32) + counted(1, os.urandom(32)) + counted(2, suites) + counted(1, b"\0")
    extensions = extension(int.from_bytes(grease(), "big"), b"") + b"".join(inner)
    padding = LENGTH - HEAD - 4 - len(start) - 2 - len(extensions) - 4
    extensions += extension(21, bytes(padding))
    body = start + counted(2, extensions)
    record = bytearray(b"\x16\3\1" + counted(2, b"\1" + counted(3, body)))
    digest = bytearray(hmac.digest(key, record, hashlib.sha256))
    now = int(time.time()).to_bytes(4, "little")
    digest[28:] = bytes(one ^ other for one, other in zip(digest[28:], now))
    record[RANDOM] = digest
    return bytes(record)


async def read_record(reader):
    head = await reader.readexactly(HEAD)
    return head[0], head + await reader.readexactly(int.from_bytes(head[3:], "big"))


class Reader:
    """What is in the records of a session."""

    def __init__(self, reader):
        self._reader, self._bytes = reader, b""

    def __getattr__(self, name):
        return getattr(self._reader, name)

    async def readexactly(self, count):
        while len(self._bytes) < count:
            kind, record = await read_record(self._reader)
            if kind != DATA:
                raise ConnectionError(f"a record of kind {kind}")
            self._bytes += record[HEAD:]
        taken, self._bytes = self._bytes[:count], self._bytes[count:]
        return taken


class Writer:
    """Puts what is written into records, behind a change_cipher_spec."""

    def __init__(self, writer):
        self._writer, self._ahead = writer, b"\x14\3\3\0\1\1"

    def __getattr__(self, name):
        return getattr(self._writer, name)

    def write(self, data):
        pieces = [data[at:at + LONGEST] for at in range(0, len(data), LONGEST)]
        self._writer.write(self._ahead + b"".join(b"\x17\3\3" + counted(2, bytes(piece)) for piece in pieces))
        self._ahead = b""


class FakeTls(ConnectionTcpMTProxyRandomizedIntermediate):
    """Takes a secret that begins with ee."""

    def __init__(self, ip, port, dc_id, *, loggers, proxy=None, local_addr=None):
        secret = bytes.fromhex(proxy[2])
        self._key, self._name = secret[1:17], secret[17:]
        plain = (proxy[0], proxy[1], self._key.hex())
        super().__init__(ip, port, dc_id, loggers=loggers, proxy=plain, local_addr=local_addr)

    async def _connect(self, timeout=None, ssl=None):
        connecting = asyncio.open_connection(self._ip, self._port)
        reader, writer = await asyncio.wait_for(connecting, timeout)
        sent = hello(self._key, self._name)
        writer.write(sent)
        flight = [await asyncio.wait_for(read_record(reader), timeout) for _ in range(3)]
        self._check([kind for kind, _ in flight], b"".join(record for _, record in flight), sent[RANDOM])
        self._reader, self._writer = Reader(reader), Writer(writer)
        self._codec = self.packet_codec(self)
        self._init_conn()
        await self._writer.drain()

    def _check(self, kinds, flight, client_random):
        if kinds != [HANDSHAKE, CHANGE_CIPHER_SPEC, DATA]:
            raise ConnectionError(f"a flight of records of kinds {kinds}")
        blank = flight[:RANDOM.start] + bytes(32) + flight[RANDOM.stop:]
        if hmac.digest(self._key, client_random + blank, hashlib.sha256) != flight[RANDOM]:
            raise ConnectionError("the flight is not the proxy's")
