#!/usr/bin/env python3
"""Opens streams one after the other, asks each for a key, and waits until the server has closed those that were answered.

  hold.py --host H --secret S --address IP:PORT [--http h1|h2] [--streams N]

Prints one line when all have been asked (how many were answered, how many were closed at once), and one when all are closed.
"""
import argparse
import asyncio

import mtproto
import websession
import webwire as w


async def until_closed(stream):
    while True:
        try:
            await stream.recv()
        except websession.StreamClosed:
            return


async def run(a):
    host, _, port = a.address.rpartition(":")
    session = websession.Session(a.host, w.secret_bytes(a.secret), "", (host, int(port)), a.http, "h1")
    await session.connect()
    held, refused = [], 0
    for _ in range(a.streams):
        stream = await session.open()
        try:
            await mtproto.req_pq_over(stream, session.secret)
            held.append(stream)
        except websession.StreamClosed:
            refused += 1
    print("answered %d refused %d" % (len(held), refused), flush=True)
    async with asyncio.timeout(60):
        for stream in held:
            await until_closed(stream)
    print("closed", flush=True)


if __name__ == "__main__":
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--host", required=True)
    p.add_argument("--secret", required=True)
    p.add_argument("--address", required=True)
    p.add_argument("--http", choices=("h1", "h2"), default="h1")
    p.add_argument("--streams", type=int, default=1)
    asyncio.run(run(p.parse_args()))
