#!/usr/bin/env python3
"""Drive Telethon through a proxy, over one of two FakeTLS transports that are no part of it.

Connects, agrees on a key with the data centre, asks it for its configuration several times, and waits between, so that
whatever the proxy puts between the data centre's packets has been read. Prints one JSON object and exits 0 if all of it
was answered.

Needs: Telethon, TelethonFakeTLS, and the data centre's RSA key.
"""

import argparse
import asyncio
import json
import logging
import sys
import time

from telethon import TelegramClient, functions
from telethon.crypto import rsa
from telethon.sessions import MemorySession
from TelethonFakeTLS import ConnectionTcpMTProxyFakeTLS
from telethon_transport import FakeTls


async def run(args):
    with open(args.public_key) as file:
        rsa.add_key(file.read(), old=False)
    session = MemorySession()
    session.set_dc(args.dc, args.address, 443)
    if args.transport == "own":
        connection, secret = FakeTls, args.secret
    else:
        connection, secret = ConnectionTcpMTProxyFakeTLS, args.secret.removeprefix("ee")
    client = TelegramClient(
        session, 94575, "a3406de8d171bb422bb6ddf3bbd800e2", connection=connection,
        proxy=(args.server, args.port, secret), connection_retries=1, retry_delay=1, timeout=10, receive_updates=False)
    began = time.monotonic()
    await client.connect()
    answers = 0
    for _ in range(args.count):
        config = await client(functions.help.GetConfigRequest())
        answers += 1
        await asyncio.sleep(0.3)
    await client.disconnect()
    return {"ok": True, "answers": answers, "dc": config.this_dc, "seconds": round(time.monotonic() - began, 3)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--server", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--secret", required=True, help="hexadecimal, beginning with ee")
    parser.add_argument("--transport", choices=["package", "own"], default="package",
                        help="TelethonFakeTLS, or the one in telethon_transport.py")
    parser.add_argument("--public-key", required=True, help="file with the data centre's key")
    parser.add_argument("--dc", type=int, default=2)
    parser.add_argument("--address", default="149.154.167.51", help="of the data centre, which the proxy does not ask for")
    parser.add_argument("--count", type=int, default=5)
    parser.add_argument("--timeout", type=float, default=30)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    try:
        report = asyncio.run(asyncio.wait_for(run(args), args.timeout))
    except Exception as error:  # whatever a library raises is the report
        report = {"ok": False, "error": f"{type(error).__name__}: {error}"}
    print(json.dumps(report))
    sys.exit(0 if report["ok"] else 1)


if __name__ == "__main__":
    main()
