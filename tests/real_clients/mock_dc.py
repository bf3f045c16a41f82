#!/usr/bin/env python3
"""A mock Telegram data centre for testing MTProto proxies with real clients.

It stands where Telegram's servers would stand behind a proxy and plays enough
of MTProto 2.0 for a client that we did not write to believe it:

* transports: abridged, intermediate and padded intermediate, each either bare
  or inside the 64-byte obfuscation header that proxies and clients send;
* the full auth-key handshake (RSA_PAD and the older SHA1 form, permanent and
  temporary keys), with an RSA key of its own;
* encrypted messages, containers, gzip, acknowledgements, quick acks, salts;
* a few methods: ping, help.getConfig, help.getNearestDc, auth.bindTempAuthKey,
  login as a bot with any token, upload.saveFilePart, upload.saveBigFilePart and
  upload.getFile.  Every other method is answered with RPC_ERROR 400, which keeps
  clients calm.

Every event goes to the log as one JSON object a line, so a test can assert on
what reached the data centre.  On SIGTERM or SIGINT a summary object ends the
log.  With the log in a file, a line "ready" on stdout says that it listens.

Needs: Python 3.9+, `cryptography`.  `cryptg` is used when present and makes
bulk transfers about twenty times faster.
"""

import argparse
import asyncio
import collections
import gzip
import hashlib
import json
import os
import signal
import struct
import sys
import time

try:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
except ImportError:
    sys.exit("mock_dc.py needs the Python package 'cryptography' (pip install cryptography)")

try:
    import cryptg
except ImportError:
    cryptg = None

# The prime and generator that Telegram's servers use.  Clients have this prime
# built in as known good; with any other they would run a slow primality test.
DH_PRIME = int(
    "c71caeb9c6b1c9048e6c522f70f13f73980d40238e3e21c14934d037563d930f48198a0aa7c14058"
    "229493d22530f4dbfa336f6e0ac925139543aed44cce7c3720fd51f69458705ac68cd4fe6b6b13ab"
    "dc9746512969328454f18faf8c595f642477fe96bb2a941d5bcd1d4ac8cc49880708fa9b378e3c4f"
    "3a9060bee67cf9a4a4a695811051907e162753b56b0f6b410dba74d8a84b2a14b3144e0ef1284754"
    "fd17ed950d5965b4b9dd46582db1178d169c6bc465b0d6ff9ca3928fef5b9ae4e418fc15e83ebea0"
    "f87fa9ff5eed70050ded2849f47bf959d956850ce929851f0d8115f635b105ee2e4e15d04b2454bf"
    "6f4fadf034b10403119cd8e3b92fcc5b",
    16,
)
DH_G = 3

# Two 31-bit primes, as in the example of Telegram's documentation.
PQ_P, PQ_Q = 0x494C553B, 0x53911073

TAG_ABRIDGED = b"\xef\xef\xef\xef"
TAG_INTERMEDIATE = b"\xee\xee\xee\xee"
TAG_PADDED = b"\xdd\xdd\xdd\xdd"
TAG_NAMES = {TAG_ABRIDGED: "abridged", TAG_INTERMEDIATE: "intermediate", TAG_PADDED: "padded"}

PRODUCTION_DCS = [
    (1, "149.154.175.50", "2001:b28:f23d:f001::a"),
    (2, "149.154.167.51", "2001:67c:4e8:f002::a"),
    (3, "149.154.175.100", "2001:b28:f23d:f003::a"),
    (4, "149.154.167.91", "2001:67c:4e8:f004::a"),
    (5, "149.154.171.5", "2001:b28:f23f:f005::a"),
]

# Two data centres have addresses for files only, as in production; a client that
# wants these gives the data centre's number to the proxy with a minus sign.
MEDIA_DCS = [(2, "149.154.167.222"), (4, "149.154.164.250")]
MEDIA_ONLY = 1 << 1

TRANSPORT_ERROR_UNKNOWN_KEY = -404


# --- cryptography -----------------------------------------------------------


def sha1(*parts):
    return hashlib.sha1(b"".join(parts)).digest()


def sha256(*parts):
    return hashlib.sha256(b"".join(parts)).digest()


def aes_ctr(key, iv):
    """A continuous AES-CTR stream; `update` both encrypts and decrypts."""
    return Cipher(algorithms.AES(key), modes.CTR(iv)).encryptor()


def xor(a, b):
    return (int.from_bytes(a, "big") ^ int.from_bytes(b, "big")).to_bytes(len(a), "big")


def _ige(key, iv, data, decrypt):
    if cryptg is not None:
        return (cryptg.decrypt_ige if decrypt else cryptg.encrypt_ige)(data, key, iv)
    cipher = Cipher(algorithms.AES(key), modes.ECB())
    block = cipher.decryptor() if decrypt else cipher.encryptor()
    first, second = (iv[16:], iv[:16]) if decrypt else (iv[:16], iv[16:])
    out = bytearray()
    for at in range(0, len(data), 16):
        chunk = data[at : at + 16]
        done = xor(block.update(xor(chunk, first)), second)
        first, second = done, chunk
        out += done
    return bytes(out)


def ige_encrypt(key, iv, data):
    return _ige(key, iv, data, decrypt=False)


def ige_decrypt(key, iv, data):
    return _ige(key, iv, data, decrypt=True)


def synthetic_file(file_id, offset, length):
    """The bytes of the file that upload.getFile makes up for an unknown id."""
    block = offset // 16
    stream = aes_ctr(sha256(b"mock-dc", struct.pack("<q", file_id)), block.to_bytes(16, "big"))
    skip = offset - block * 16
    return stream.update(b"\0" * (skip + length))[skip:]


class ServerKey:
    """The RSA key that this data centre proves itself with."""

    def __init__(self, path):
        if os.path.exists(path):
            with open(path, "rb") as f:
                private = serialization.load_pem_private_key(f.read(), None)
        else:
            private = self.generate()
            with open(path, "wb") as f:
                f.write(
                    private.private_bytes(
                        serialization.Encoding.PEM,
                        serialization.PrivateFormat.TraditionalOpenSSL,
                        serialization.NoEncryption(),
                    )
                )
        numbers = private.private_numbers()
        self.n, self.e, self.d = numbers.public_numbers.n, numbers.public_numbers.e, numbers.d
        self.public_pem = private.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.PKCS1
        )
        self.fingerprint = struct.unpack("<q", self.digest(numbers.public_numbers)[-8:])[0]

    @staticmethod
    def digest(public):
        return sha1(tl_bytes(int_bytes(public.n)), tl_bytes(int_bytes(public.e)))

    @classmethod
    def generate(cls):
        """A new key. mtcute 0.30 finds none whose fingerprint begins with a zero in hexadecimal."""
        while True:
            private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
            if cls.digest(private.public_key().public_numbers())[-1] >= 0x10:
                return private

    def open_inner_data(self, encrypted):
        """Return (form, p_q_inner_data) of an encrypted req_DH_params payload."""
        block = pow(int.from_bytes(encrypted, "big"), self.d, self.n).to_bytes(256, "big")
        body = block[32:]
        temp_key = xor(block[:32], sha256(body))
        with_hash = ige_decrypt(temp_key, b"\0" * 32, body)
        data = with_hash[:192][::-1]
        if sha256(temp_key, data) == with_hash[192:]:
            return "rsa_pad", data
        return "sha1", block[1 + 20 :]


# --- TL serialisation ---------------------------------------------------------


def int_bytes(number):
    return number.to_bytes((number.bit_length() + 7) // 8, "big")


def tl_bytes(data):
    head = bytes([len(data)]) if len(data) < 254 else b"\xfe" + len(data).to_bytes(3, "little")
    body = head + data
    return body + b"\0" * (-len(body) % 4)


def tl_string(text):
    return tl_bytes(text.encode())


def tl_int(*values):
    return struct.pack("<%di" % len(values), *values)


def tl_uint(*values):
    return struct.pack("<%dI" % len(values), *values)


def tl_long(*values):
    return struct.pack("<%dq" % len(values), *values)


def tl_bool(value):
    return tl_uint(0x997275B5 if value else 0xBC799737)


def tl_vector(items):
    return tl_uint(0x1CB5C415, len(items)) + b"".join(items)


class Reader:
    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, count):
        if self.at + count > len(self.data):
            raise ValueError("TL data ends early")
        self.at += count
        return self.data[self.at - count : self.at]

    def int(self):
        return struct.unpack("<i", self.take(4))[0]

    def uint(self):
        return struct.unpack("<I", self.take(4))[0]

    def long(self):
        return struct.unpack("<q", self.take(8))[0]

    def bytes(self):
        length, head = self.take(1)[0], 1
        if length == 254:
            length, head = int.from_bytes(self.take(3), "little"), 4
        value = self.take(length)
        self.take(-(head + length) % 4)
        return value

    def string(self):
        return self.bytes().decode("utf-8", "replace")

    def skip_json_value(self):
        kind = self.uint()
        if kind == 0x3F6D7B68:  # jsonNull
            return
        if kind == 0xC7345E6A:  # jsonBool
            self.uint()
        elif kind == 0x2BE0DFA4:  # jsonNumber
            self.take(8)
        elif kind == 0xB71E767A:  # jsonString
            self.bytes()
        elif kind == 0xF7444763:  # jsonArray
            self.uint()
            for _ in range(self.uint()):
                self.skip_json_value()
        elif kind == 0x99C1D49D:  # jsonObject
            self.uint()
            for _ in range(self.uint()):
                self.uint()  # jsonObjectValue
                self.bytes()
                self.skip_json_value()
        else:
            raise ValueError("unknown JSONValue %08x" % kind)


# --- packet framing -----------------------------------------------------------


class Framing:
    """Splits a decrypted byte stream into packets and back, for one tag."""

    def __init__(self, tag, max_padding):
        self.tag, self.max_padding, self.buffer = tag, max_padding, bytearray()

    def feed(self, data):
        """Yield (packet, wants_quick_ack) for each packet now complete."""
        self.buffer += data
        while True:
            found = self._next()
            if found is None:
                return
            head, length, quick = found
            packet = bytes(self.buffer[head : head + length])
            del self.buffer[: head + length]
            yield packet, quick

    def _next(self):
        buf = self.buffer
        if self.tag == TAG_ABRIDGED:
            if not buf:
                return None
            head, words = 1, buf[0] & 0x7F
            quick = bool(buf[0] & 0x80)
            if words == 0x7F:
                if len(buf) < 4:
                    return None
                head, words = 4, int.from_bytes(buf[1:4], "little")
            length = words * 4
        else:
            if len(buf) < 4:
                return None
            head, word = 4, int.from_bytes(buf[:4], "little")
            length, quick = word & 0x7FFFFFFF, bool(word >> 31)
        return (head, length, quick) if len(buf) >= head + length else None

    def wrap(self, packet):
        if self.tag == TAG_ABRIDGED:
            words = len(packet) // 4
            if words < 0x7F:
                return bytes([words]) + packet
            return b"\x7f" + words.to_bytes(3, "little") + packet
        if self.tag == TAG_PADDED and self.max_padding:
            packet += os.urandom(os.urandom(1)[0] % (self.max_padding + 1))
        return len(packet).to_bytes(4, "little") + packet

    def wrap_quick_ack(self, token):
        raw = struct.pack("<I", token)
        return raw[::-1] if self.tag == TAG_ABRIDGED else raw


# --- server state ---------------------------------------------------------------


class AuthKey:
    def __init__(self, raw, temporary, dc):
        self.raw, self.temporary, self.dc = raw, temporary, dc
        digest = sha1(raw)
        self.id, self.aux_hash = digest[-8:], digest[:8]
        self.sessions = {}

    def key_iv(self, msg_key, from_server):
        x = 8 if from_server else 0
        a = sha256(msg_key, self.raw[x : x + 36])
        b = sha256(self.raw[40 + x : 76 + x], msg_key)
        return a[:8] + b[8:24] + a[24:], b[:8] + a[8:24] + b[24:]

    def msg_key_large(self, plain, from_server):
        x = 8 if from_server else 0
        return sha256(self.raw[88 + x : 120 + x], plain)


class Session:
    def __init__(self, auth_key):
        self.auth_key = auth_key
        self.content_messages = 0
        self.known = set()
        self.layer = None


class Upload:
    """A file that a client sent in parts."""

    def __init__(self):
        self.parts, self.joined = {}, None

    def add(self, number, data):
        self.parts[number], self.joined = data, None

    def complete(self, total):
        """Whether this is all; a small upload tells only by a shorter last part."""
        last = max(self.parts)
        if len(self.parts) != last + 1:
            return False
        return last + 1 == total if total else len(self.parts[last]) < len(self.parts[0])

    def whole(self):
        if self.joined is None:
            self.joined = b"".join(self.parts[number] for number in sorted(self.parts))
        return self.joined

    def facts(self):
        whole = self.whole()
        return {"bytes": len(whole), "sha256": hashlib.sha256(whole).hexdigest()}


class DataCentre:
    """What all connections share: keys, uploads, the log and the counters."""

    def __init__(self, args, log_file):
        self.args, self.log_file = args, log_file
        self.key = ServerKey(args.rsa_key)
        self.auth_keys, self.uploads = {}, collections.defaultdict(Upload)
        self.counters = collections.Counter()
        self.open_now = self.open_peak = self.last_msg_id = 0
        self.started = time.time()

    def log(self, event, **fields):
        self.counters[event] += 1
        record = {"t": round(time.time(), 4), "ev": event, **fields}
        self.log_file.write(json.dumps(record) + "\n")
        self.log_file.flush()

    def next_msg_id(self, answer):
        """A server message id: 1 modulo 4 for answers, 3 for the rest."""
        base = int((time.time() + self.args.clock_offset) * 2**32) & ~3
        self.last_msg_id = max(base, self.last_msg_id + 4)
        return self.last_msg_id + (1 if answer else 3)

    def now(self):
        return int(time.time() + self.args.clock_offset)

    def file_bytes(self, file_id, size, offset, limit):
        upload = self.uploads.get(file_id)
        if upload is None:
            return synthetic_file(file_id, offset, max(0, min(limit, size - offset)))
        return upload.whole()[offset : offset + limit]

    def summary(self):
        return {
            "seconds": round(time.time() - self.started, 1),
            "peak_connections": self.open_peak,
            "counters": dict(self.counters),
            "uploads": {str(file_id): upload.facts() for file_id, upload in self.uploads.items()},
        }


class Connection:
    """One client connection, from its transport header to its end."""

    numbers = 0

    def __init__(self, dc, reader, writer):
        Connection.numbers += 1
        self.number, self.dc, self.reader, self.writer = Connection.numbers, dc, reader, writer
        self.received = self.sent = 0
        self.decrypt = self.encrypt = None
        self.framing = None
        self.handshake = {}
        self.outbox = bytearray()

    def log(self, event, **fields):
        self.dc.log(event, conn=self.number, **fields)

    def dc_id(self, session):
        """The data centre that the client takes this one for.

        TDLib asks for its configuration again, without a pause, while the
        answer names another data centre than the one it asked.
        """
        named = session.auth_key.dc
        if named is not None:
            return abs(named) % 10000  # test data centres are 10001…, media ones negative
        address = self.writer.get_extra_info("sockname")[0]
        for dc_id, ipv4, ipv6 in PRODUCTION_DCS:
            if address in (ipv4, ipv6):
                return dc_id
        return self.dc.args.dc_id

    async def run(self):
        peer = self.writer.get_extra_info("peername")
        local = self.writer.get_extra_info("sockname")
        if peer is None or local is None:
            return
        self.log("open", peer="%s:%d" % peer[:2], local="%s:%d" % local[:2])
        reason = "eof"
        try:
            if not await self.read_transport_header():
                reason = "unknown transport"
                return
            while True:
                data = await self.reader.read(1 << 16)
                if not data:
                    return
                self.received += len(data)
                await self.handle_stream(self.decrypt.update(data) if self.decrypt else data)
        except asyncio.IncompleteReadError:
            reason = "eof inside the transport header"
        except (ConnectionError, OSError) as error:
            reason = type(error).__name__
        except ValueError as error:
            reason = "bad data: %s" % error
        finally:
            self.log("close", reason=reason, received=self.received, sent=self.sent)
            self.writer.close()

    async def read_transport_header(self):
        """Detect the transport and set up its framing; false if it is unknown."""
        start = await self.reader.readexactly(1)
        if start == b"\xef":
            self.received += 1
            return self.begin(TAG_ABRIDGED, obfuscated=False)
        start += await self.reader.readexactly(3)
        if start in (TAG_INTERMEDIATE, TAG_PADDED):
            self.received += 4
            return self.begin(start, obfuscated=False)
        header = start + await self.reader.readexactly(60)
        self.received += 64
        backwards = header[8:56][::-1]
        self.decrypt = aes_ctr(header[8:40], header[40:56])
        self.encrypt = aes_ctr(backwards[:32], backwards[32:])
        plain = self.decrypt.update(header)
        tag = plain[56:60]
        if tag not in TAG_NAMES:
            self.log("bad_transport", first_bytes=header[:16].hex(), tag=tag.hex())
            return False
        # Clients put a DC number here; what a proxy writes is up to the proxy.
        field = struct.unpack("<h", plain[60:62])[0]
        return self.begin(tag, obfuscated=True, dc_field=field)

    def begin(self, tag, obfuscated, **fields):
        self.framing = Framing(tag, self.dc.args.max_padding)
        self.log("transport", tag=TAG_NAMES[tag], obfuscated=obfuscated, **fields)
        return True

    async def handle_stream(self, data):
        for packet, quick in self.framing.feed(data):
            self.handle_packet(packet, quick)
        if self.outbox:
            out, self.outbox = bytes(self.outbox), bytearray()
            self.sent += len(out)
            self.writer.write(self.encrypt.update(out) if self.encrypt else out)
            await self.writer.drain()

    def send_packet(self, packet):
        self.outbox += self.framing.wrap(packet)

    def handle_packet(self, packet, quick):
        if len(packet) < 8:
            raise ValueError("packet of %d bytes" % len(packet))
        if packet[:8] == b"\0" * 8:
            self.handle_plain(packet)
            return
        auth_key = self.dc.auth_keys.get(packet[:8])
        if auth_key is None:
            self.log("unknown_auth_key", auth_key_id=packet[:8].hex())
            self.send_packet(tl_int(TRANSPORT_ERROR_UNKNOWN_KEY))
            return
        self.handle_encrypted(auth_key, packet, quick)

    # The auth-key handshake, in unencrypted messages.

    def handle_plain(self, packet):
        length = struct.unpack("<I", packet[16:20])[0]
        reader = Reader(packet[20 : 20 + length])
        method = reader.uint()
        handler = {
            0xBE7E8EF1: self.on_req_pq,
            0x60469778: self.on_req_pq,
            0xD712E4BE: self.on_req_dh_params,
            0xF5045F1F: self.on_set_client_dh_params,
            0x62D6B459: None,  # msgs_ack
        }.get(method, "unknown")
        if handler == "unknown":
            raise ValueError("unknown unencrypted method %08x" % method)
        if handler is not None:
            body = handler(reader)
            head = b"\0" * 8 + tl_long(self.dc.next_msg_id(answer=True)) + tl_uint(len(body))
            self.send_packet(head + body)

    def on_req_pq(self, reader):
        nonce, server_nonce = reader.take(16), os.urandom(16)
        self.handshake = {"nonce": nonce, "server_nonce": server_nonce}
        self.log("req_pq")
        return (
            tl_uint(0x05162463)
            + nonce
            + server_nonce
            + tl_bytes(int_bytes(PQ_P * PQ_Q))
            + tl_vector([tl_long(self.dc.key.fingerprint)])
        )

    def on_req_dh_params(self, reader):
        state = self.handshake
        if reader.take(32) != state["nonce"] + state["server_nonce"]:
            raise ValueError("nonce mismatch in req_DH_params")
        reader.bytes(), reader.bytes()
        if reader.long() != self.dc.key.fingerprint:
            raise ValueError("req_DH_params names another RSA key")
        form, inner = self.dc.key.open_inner_data(reader.bytes())
        inner = Reader(inner)
        kind = inner.uint()
        kinds = {0x83C95AEC: "main", 0xA9F55F95: "main_dc", 0x3C6A84D4: "temp", 0x56FDDF88: "temp_dc"}
        if kind not in kinds:
            raise ValueError("unknown p_q_inner_data %08x" % kind)
        inner.bytes(), inner.bytes(), inner.bytes()
        if inner.take(32) != state["nonce"] + state["server_nonce"]:
            raise ValueError("nonce mismatch in p_q_inner_data")
        state["new_nonce"] = inner.take(32)
        state["kind"] = kinds[kind]
        state["dc"] = inner.int() if kinds[kind].endswith("_dc") else None
        state["a"] = int.from_bytes(os.urandom(256), "big")
        self.log("req_dh_params", form=form, kind=kinds[kind], dc=state["dc"])
        answer = (
            tl_uint(0xB5890DBA)
            + state["nonce"]
            + state["server_nonce"]
            + tl_int(DH_G)
            + tl_bytes(int_bytes(DH_PRIME))
            + tl_bytes(pow(DH_G, state["a"], DH_PRIME).to_bytes(256, "big"))
            + tl_int(self.dc.now())
        )
        key, iv = self.temporary_key_iv()
        hashed = sha1(answer) + answer
        hashed += os.urandom(-len(hashed) % 16)
        return (
            tl_uint(0xD0E8075C)
            + state["nonce"]
            + state["server_nonce"]
            + tl_bytes(ige_encrypt(key, iv, hashed))
        )

    def temporary_key_iv(self):
        new, server = self.handshake["new_nonce"], self.handshake["server_nonce"]
        a, b, c = sha1(new, server), sha1(server, new), sha1(new, new)
        return a + b[:12], b[12:] + c + new[:4]

    def on_set_client_dh_params(self, reader):
        state = self.handshake
        if reader.take(32) != state["nonce"] + state["server_nonce"]:
            raise ValueError("nonce mismatch in set_client_DH_params")
        key, iv = self.temporary_key_iv()
        hashed = ige_decrypt(key, iv, reader.bytes())
        inner = Reader(hashed[20:])
        if inner.uint() != 0x6643B654:
            raise ValueError("bad client_DH_inner_data")
        inner.take(32), inner.long()
        g_b = int.from_bytes(inner.bytes(), "big")
        raw = pow(g_b, state["a"], DH_PRIME).to_bytes(256, "big")
        auth_key = AuthKey(raw, state["kind"].startswith("temp"), state["dc"])
        self.dc.auth_keys[auth_key.id] = auth_key
        self.log("auth_key", id=auth_key.id.hex(), kind=state["kind"], dc=state["dc"])
        return (
            tl_uint(0x3BCBF734)
            + state["nonce"]
            + state["server_nonce"]
            + sha1(state["new_nonce"], b"\x01", auth_key.aux_hash)[4:]
        )

    # Encrypted messages.

    def handle_encrypted(self, auth_key, packet, quick):
        msg_key, body = packet[8:24], packet[24:]
        body = body[: len(body) & ~15]
        key, iv = auth_key.key_iv(msg_key, from_server=False)
        plain = ige_decrypt(key, iv, body)
        large = auth_key.msg_key_large(plain, from_server=False)
        if large[8:24] != msg_key:
            raise ValueError("msg_key mismatch: the packet was altered or cut")
        session_id = plain[8:16]
        msg_id, seq_no, length = struct.unpack("<qII", plain[16:32])
        if quick:
            token = struct.unpack("<I", large[:4])[0] | 1 << 31
            self.outbox += self.framing.wrap_quick_ack(token)
            self.log("quick_ack")
        session = auth_key.sessions.get(session_id)
        if session is None:
            session = auth_key.sessions[session_id] = Session(auth_key)
            self.log("session", session=session_id.hex(), temporary_key=auth_key.temporary)
            salt = self.salt(auth_key)
            created = tl_uint(0x9EC20908) + tl_long(msg_id) + os.urandom(8) + salt
            self.send_message(auth_key, session_id, session, created, answer=False)
        acks = []
        self.handle_message(auth_key, session_id, session, msg_id, seq_no, plain[32 : 32 + length], acks)
        if acks:
            body = tl_uint(0x62D6B459) + tl_vector([tl_long(i) for i in acks])
            self.send_message(auth_key, session_id, session, body, answer=False, content=False)

    @staticmethod
    def salt(auth_key):
        return sha1(b"salt", auth_key.raw)[:8]

    def send_message(self, auth_key, session_id, session, body, answer, content=True):
        seq_no = session.content_messages * 2 + (1 if content else 0)
        if content:
            session.content_messages += 1
        msg_id = self.dc.next_msg_id(answer)
        plain = self.salt(auth_key) + session_id + struct.pack("<qII", msg_id, seq_no, len(body)) + body
        padding = 12 + (-(len(plain) + 12) % 16)
        plain += os.urandom(padding)
        msg_key = auth_key.msg_key_large(plain, from_server=True)[8:24]
        key, iv = auth_key.key_iv(msg_key, from_server=True)
        self.send_packet(auth_key.id + msg_key + ige_encrypt(key, iv, plain))

    def handle_message(self, auth_key, session_id, session, msg_id, seq_no, body, acks):
        reader = Reader(body)
        method = reader.uint()
        session.known.add(msg_id)
        if method == 0x73F1F8DC:  # msg_container
            for _ in range(reader.uint()):
                inner_id, inner_seq, length = reader.long(), reader.uint(), reader.uint()
                inner = reader.take(length)
                self.handle_message(auth_key, session_id, session, inner_id, inner_seq, inner, acks)
            return
        if method == 0x3072CFA1:  # gzip_packed
            inner = gzip.decompress(reader.bytes())
            self.handle_message(auth_key, session_id, session, msg_id, seq_no, inner, acks)
            return
        if seq_no & 1:
            acks.append(msg_id)

        def reply(answer_body):
            self.send_message(auth_key, session_id, session, answer_body, answer=True)

        if method in (0x62D6B459, 0x9299359F):  # msgs_ack, http_wait
            return
        if method in (0x7ABE77EC, 0xF3427B8C):  # ping, ping_delay_disconnect
            self.log("ping")
            reply(tl_uint(0x347773C5) + tl_long(msg_id, reader.long()))
        elif method == 0xB921BD04:  # get_future_salts
            now = self.dc.now()
            salt = tl_int(now - 60, now + 3600) + self.salt(auth_key)
            reply(tl_uint(0xAE500895) + tl_long(msg_id) + tl_int(now, 1) + salt)
        elif method == 0xDA69FB52:  # msgs_state_req
            reader.uint()
            count = reader.uint()
            asked = [reader.long() for _ in range(count)]
            states = bytes(4 if known in session.known else 1 for known in asked)
            reply(tl_uint(0x04DEB57D) + tl_long(msg_id) + tl_bytes(states))
        elif method == 0xE7512126:  # destroy_session
            reply(tl_uint(0x62D350C9) + tl_long(reader.long()))
        elif method in (0x04DEB57D, 0x8CC0D131, 0x7D861A08):  # state info, resend request
            self.log("service_message", constructor="%08x" % method)
        else:
            try:
                result = self.call(session, Reader(body))
            except ValueError as error:
                self.log("bad_request", error=str(error), method="%08x" % method)
                result = rpc_error(400, "INPUT_CONSTRUCTOR_INVALID")
            reply(tl_uint(0xF35C6D01) + tl_long(msg_id) + result)

    def call(self, session, reader):
        """Unwrap invokeWith… layers, then answer the method inside."""
        method = reader.uint()
        if method == 0xDA9B0D0D:  # invokeWithLayer
            session.layer = reader.int()
            return self.call(session, reader)
        if method == 0xC1CD5EA9:  # initConnection
            flags, api_id = reader.uint(), reader.int()
            names = ("device", "system", "app", "system_lang", "lang_pack", "lang")
            info = {name: reader.string() for name in names}
            if flags & 1:
                reader.uint()
                info["proxy"] = "%s:%d" % (reader.string(), reader.int())
            if flags & 2:
                reader.skip_json_value()
            self.log("init_connection", layer=session.layer, api_id=api_id, **info)
            return self.call(session, reader)
        if method == 0xCB9F372D:  # invokeAfterMsg
            reader.long()
            return self.call(session, reader)
        if method == 0xBF9459B7:  # invokeWithoutUpdates
            return self.call(session, reader)
        if method == 0x3072CFA1:  # gzip_packed
            return self.call(session, Reader(gzip.decompress(reader.bytes())))
        handler = METHODS.get(method)
        name = handler.__name__ if handler else "%08x" % method
        details = {}
        result = handler(self, session, reader, details) if handler else rpc_error(400, "METHOD_NOT_MOCKED")
        self.log("rpc", method=name, answered=handler is not None, **details)
        return result


# --- methods ----------------------------------------------------------------------


def rpc_error(code, message):
    return tl_uint(0x2144CA19) + tl_int(code) + tl_string(message)


def help_getConfig(conn, session, reader, details):
    now, options = conn.dc.now(), []

    def add(flags, dc_id, address):
        options.append(tl_uint(0x18B7A10D, flags) + tl_int(dc_id) + tl_string(address) + tl_int(443))

    for dc_id, ipv4, ipv6 in PRODUCTION_DCS:
        add(0, dc_id, ipv4)
        add(1, dc_id, ipv6)
    for dc_id, ipv4 in MEDIA_DCS:
        add(MEDIA_ONLY, dc_id, ipv4)
    old = (session.layer or 0) < 154
    details["layer"] = session.layer
    out = tl_uint(0x232566AC if old else 0xCC1A241E, 0)
    test_mode = abs(session.auth_key.dc or 0) > 10000
    out += tl_int(now, now + 3600) + tl_bool(test_mode) + tl_int(conn.dc_id(session))
    out += tl_vector(options) + tl_string("mock.invalid")
    # chat_size_max … push_chat_limit
    out += tl_int(200, 200000, 100, 210000, 5000, 30000, 300000, 30000, 1500, 60000, 2)
    if old:
        out += tl_int(200)  # saved_gifs_limit
    # edit_time_limit, revoke_time_limit, revoke_pm_time_limit, rating_e_decay, stickers_recent_limit
    out += tl_int(172800, 2147483647, 2147483647, 2419200, 200)
    if old:
        out += tl_int(5)  # stickers_faved_limit
    out += tl_int(604800)  # channels_read_media_period
    if old:
        out += tl_int(5, 100)  # pinned_dialogs_count_max, pinned_infolder_count_max
    out += tl_int(20000, 90000, 30000, 10000)  # call timeouts
    out += tl_string("https://t.me/")
    out += tl_int(1024, 4096, 4)  # caption_length_max, message_length_max, webfile_dc_id
    return out


def help_getNearestDc(conn, session, reader, details):
    dc_id = conn.dc_id(session)
    return tl_uint(0x8E1A1775) + tl_string("XX") + tl_int(dc_id, dc_id)


def auth_bindTempAuthKey(conn, session, reader, details):
    details["perm_auth_key_id"] = reader.take(8).hex()
    return tl_bool(True)


def authorization(bot_id):
    """A bot logged in, in the form that TDLib 1.8.66 to 1.8.69 know."""
    is_self, is_bot, has_hash, has_name, has_username = 1 << 10, 1 << 14, 1, 2, 8
    user = tl_uint(0xB1B8CC83, is_self | is_bot | has_hash | has_name | has_username, 0)
    user += tl_long(bot_id, bot_id) + tl_string("Mock") + tl_string("mock_bot") + tl_int(1)
    return tl_uint(0x2EA2C0D4, 0) + user


def auth_importBotAuthorization(conn, session, reader, details):
    """Log any bot in."""
    reader.uint(), reader.int(), reader.bytes()
    bot_id = int(reader.string().split(":")[0])
    details["bot_id"] = bot_id
    return authorization(bot_id)


def auth_exportAuthorization(conn, session, reader, details):
    details["dc"] = reader.int()
    return tl_uint(0xB434E2B8) + tl_long(1) + tl_bytes(b"mock")


def auth_importAuthorization(conn, session, reader, details):
    """Log in what another data centre let go; any bot will do."""
    return authorization(1234567)


def rpc_drop_answer(conn, session, reader, details):
    return tl_uint(0x5E2AD36E)  # rpc_answer_unknown: it was sent already


def updates_getState(conn, session, reader, details):
    return tl_uint(0xA56C2A3E) + tl_int(1, 0, conn.dc.now(), 1, 0)


def updates_getDifference(conn, session, reader, details):
    return tl_uint(0x5D75A138) + tl_int(conn.dc.now(), 1)


def users_getUsers(conn, session, reader, details):
    return rpc_error(401, "AUTH_KEY_UNREGISTERED")  # what a client that is not logged in expects


def upload_saveFilePart(conn, session, reader, details):
    return save_part(conn, reader, details, big=False)


def upload_saveBigFilePart(conn, session, reader, details):
    return save_part(conn, reader, details, big=True)


def save_part(conn, reader, details, big):
    file_id, part = reader.long(), reader.int()
    total = reader.int() if big else None
    data = reader.bytes()
    upload = conn.dc.uploads[file_id]
    upload.add(part, data)
    details.update(file_id=file_id, part=part, bytes=len(data))
    if upload.complete(total):
        conn.log("upload_complete", file_id=file_id, **upload.facts())
    return tl_bool(True)


def upload_getFile(conn, session, reader, details):
    reader.uint()
    location = reader.uint()
    if location != 0xBAD07584:  # inputDocumentFileLocation
        return rpc_error(400, "LOCATION_INVALID")
    file_id, size = reader.long(), reader.long()
    reader.bytes(), reader.bytes()
    offset, limit = reader.long(), reader.int()
    data = conn.dc.file_bytes(file_id, size, offset, limit)
    details.update(file_id=file_id, offset=offset, bytes=len(data))
    return tl_uint(0x096A18D5, 0xAA963B05) + tl_int(conn.dc.now()) + tl_bytes(data)


METHODS = {
    0xC4F9186B: help_getConfig,
    0x1FB33026: help_getNearestDc,
    0xCDD42A05: auth_bindTempAuthKey,
    0x67A3FF2C: auth_importBotAuthorization,
    0xA57A7DAD: auth_importAuthorization,
    0xE5BFFFCD: auth_exportAuthorization,
    0x58E4A740: rpc_drop_answer,
    0xEDD4882A: updates_getState,
    0x19C2F763: updates_getDifference,
    0x0D91A548: users_getUsers,
    0xB304A621: upload_saveFilePart,
    0xDE7B673D: upload_saveBigFilePart,
    0xBE5335BE: upload_getFile,
}


# --- command line -------------------------------------------------------------------


def host_port(text):
    host, _, port = text.rpartition(":")
    return host.strip("[]"), int(port)


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--listen", type=host_port, action="append", metavar="HOST:PORT",
                        help="address to listen on; repeat for more (default 127.0.0.1:4430)")
    parser.add_argument("--rsa-key", default="mock_dc_rsa.pem",
                        help="private RSA key in PEM; made if it is not there (default %(default)s)")
    parser.add_argument("--public-key-out", metavar="FILE",
                        help="write the public key here in PKCS#1 PEM, as clients take it")
    parser.add_argument("--log", default="-", help="JSON-lines log, - for stdout (default)")
    parser.add_argument("--dc-id", type=int, default=2,
                        help="the DC number to report to a client that names none when it connects "
                             "to an address of no data centre (default 2)")
    parser.add_argument("--max-padding", type=int, default=3, metavar="N",
                        help="pad padded-intermediate packets by 0..N bytes (default 3: Telethon "
                             "strips only the length modulo 4, so more than 3 breaks it)")
    parser.add_argument("--clock-offset", type=float, default=0, metavar="SECONDS",
                        help="pretend that the server's clock is off by this much")
    return parser.parse_args()


async def serve(args, log_file):
    dc = DataCentre(args, log_file)
    if args.public_key_out:
        with open(args.public_key_out, "wb") as f:
            f.write(dc.key.public_pem)

    async def client(reader, writer):
        dc.open_now += 1
        dc.open_peak = max(dc.open_peak, dc.open_now)
        try:
            await Connection(dc, reader, writer).run()
        finally:
            dc.open_now -= 1

    servers = []
    for host, port in args.listen or [("127.0.0.1", 4430)]:
        servers.append(await asyncio.start_server(client, host, port, limit=1 << 18))
    dc.log("ready", listen=["%s:%d" % s.getsockname()[:2] for server in servers for s in server.sockets],
           fingerprint="%016x" % (dc.key.fingerprint & (1 << 64) - 1), fast_aes=cryptg is not None)
    if log_file is not sys.stdout:
        print("ready", flush=True)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await stop.wait()
    dc.log("summary", **dc.summary())


def main():
    args = parse_args()
    log_file = sys.stdout if args.log == "-" else open(args.log, "a")
    asyncio.run(serve(args, log_file))


if __name__ == "__main__":
    main()
