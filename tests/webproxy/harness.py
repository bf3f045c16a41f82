#!/usr/bin/env python3
"""Plays an app around the bridge page in a real Chromium, and moves bytes through it.

  harness.py --role desktop|loopback|android|android64|ios|all --host H --secret S [--path P] --address IP:PORT

The far end has to echo for --megabytes, or to answer req_pq for --reqpq. With --sockets, WebSockets are refused in the page,
or lost after a few messages, once or each time; with --lost-requests, its first requests are. One line of JSON for each role; fails if there was any fault.
"""
import argparse
import asyncio
import base64
import collections
import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
import time

import mtproto
import shims
import webhttp
import websession
import webwire as w


LAST = [None]


class Fault(Exception):
    pass


class Chromium:
    def __init__(self, host, address, extra=()):
        self.folder = tempfile.mkdtemp(prefix="chromium")
        self.process = subprocess.Popen(
            ["chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
             "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-extensions",
             "--user-data-dir=" + self.folder, "--remote-debugging-port=0", "--ignore-certificate-errors",
             "--host-resolver-rules=MAP %s:443 %s, MAP * ~NOTFOUND, EXCLUDE 127.0.0.1" % (host, address)] + list(extra) + ["about:blank"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    async def connect(self):
        path = os.path.join(self.folder, "DevToolsActivePort")
        for _ in range(200):
            if os.path.exists(path) and len(open(path).read().split()) == 2:
                break
            await asyncio.sleep(0.1)
        port, tail = open(path).read().split()
        http = webhttp.H1(("127.0.0.1", int(port)), "127.0.0.1", None, plain=True)
        _, self.ws = await http.websocket(tail, [])
        self.ws.limit = 64 << 20
        self.number, self.waiting, self.handlers = 0, {}, collections.defaultdict(list)
        self.task = asyncio.ensure_future(self.pump())

    async def pump(self):
        while True:
            message = await self.ws.recv()
            if message is None:
                return
            m = json.loads(message[1])
            if "id" in m:
                future = self.waiting.pop(m["id"], None)
                if future and not future.done():
                    future.set_result(m)
            else:
                for handler in self.handlers[m["method"]]:
                    handler(m)

    async def call(self, method, params=None, session=None):
        self.number += 1
        future = self.waiting[self.number] = asyncio.get_running_loop().create_future()
        message = dict(id=self.number, method=method, params=params or {})
        if session:
            message["sessionId"] = session
        await self.ws.frame(1, json.dumps(message).encode())
        m = await future
        if "error" in m:
            raise Fault("%s: %s" % (method, m["error"]))
        return m["result"]

    def close(self):
        self.task.cancel()
        self.process.terminate()
        self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


KEYS = {"status": {"t", "state"}, "traffic": {"t", "up", "down"}, "close": {"t"}, "tproxy-android-init": {"t", "v", "nonce"}}


class Host:
    """One app: a browser target, its messages, a session of streams."""

    def __init__(self, a, chromium, role):
        self.a, self.chromium, self.role = a, chromium, role
        self.controls, self.binary = [], asyncio.Queue()
        self.faults = []
        self.reader = None
        self.nonce = w.b64u(secrets.token_bytes(32))
        self.changed = asyncio.Event()
        self.messages = 0
        self.frames_per_message = collections.Counter()
        self.network = collections.Counter()

    def judge_control(self, text):
        try:
            o = json.loads(text)
        except ValueError:
            return self.faults.append("control is not JSON: %s" % text[:80])
        self.controls.append((round(time.monotonic() - self.t0, 3), o))
        self.changed.set()
        if not isinstance(o, dict) or o.get("t") not in KEYS or set(o) != KEYS[o["t"]]:
            self.faults.append("control of another shape: %s" % text[:120])
        elif o["t"] == "status" and o["state"] not in ("connecting", "connected", "reconnecting", "failed"):
            self.faults.append("status %s" % o["state"])
        elif o["t"] == "traffic" and not all(type(o[k]) is int and 0 <= o[k] <= 32 << 20 for k in ("up", "down")):
            self.faults.append("traffic %s" % text)
        elif o["t"] == "tproxy-android-init" and (self.role == "loopback" or o["v"] != 1 or o["nonce"] != self.nonce):
            self.faults.append("init %s" % text)

    def event(self, m):
        if m.get("sessionId") != self.session:
            return
        if m["method"] == "Network.responseReceived":
            r = m["params"]["response"]
            self.network[(re.sub(r"\?.*", "?", r["url"].split("/", 3)[3]), r.get("protocol"), r["status"])] += 1
            return
        if m["method"] == "Runtime.exceptionThrown":
            return self.faults.append("exception: %s" % m["params"]["exceptionDetails"].get("text"))
        if m["method"] == "Log.entryAdded":
            entry = m["params"]["entry"]
            if entry["level"] == "error":
                self.faults.append("console: %s" % entry["text"][:200])
            return
        if m["method"] != "Runtime.bindingCalled":
            return
        text = m["params"]["payload"]
        if text[0] == "c":
            self.judge_control(text[1:])
        elif text[0] == "b":
            data = base64.b64decode(text[1:])
            self.messages += 1
            try:
                n = len(w.split(data))
                self.frames_per_message[n] += 1
                if self.role != "loopback" and n != 1:
                    self.faults.append("%d frames in one message" % n)
            except w.WireError as e:
                self.faults.append("message: %s" % e)
            self.binary.put_nowait(data)
        else:
            self.faults.append(text[1:])

    async def evaluate(self, expression):
        r = await self.chromium.call("Runtime.evaluate", dict(expression=expression, returnByValue=True), self.session)
        if "exceptionDetails" in r:
            raise Fault(str(r["exceptionDetails"])[:300])
        return r["result"].get("value")

    async def start(self):
        a, c = self.a, self.chromium
        target = (await c.call("Target.createTarget", dict(url="about:blank")))["targetId"]
        self.target = target
        self.session = (await c.call("Target.attachToTarget", dict(targetId=target, flatten=True)))["sessionId"]
        for name in ("Runtime.bindingCalled", "Runtime.exceptionThrown", "Log.entryAdded", "Network.responseReceived"):
            c.handlers[name].append(self.event)
        for name in ("Page", "Runtime", "Log", "Network"):
            await c.call(name + ".enable", None, self.session)
        await c.call("Runtime.addBinding", dict(name="hostOut"), self.session)
        base = "/" + a.path + "/" if a.path else "/"
        self.base = base
        url = "https://" + a.host + base + "?bridge=" + w.capability(a.secret_bytes, a.host, a.path)
        self.t0 = time.monotonic()
        if self.role == "loopback":
            server = await asyncio.start_server(self.parent, "127.0.0.1", 0)
            self.server = server
            port = server.sockets[0].getsockname()[1]
            await c.call("Page.navigate", dict(url="http://127.0.0.1:%d/" % port), self.session)
            for _ in range(100):
                if await self.evaluate("typeof hostStart") == "function":
                    break
                await asyncio.sleep(0.05)
            await self.evaluate("hostStart(%s)" % json.dumps(url))
            await self.wait(lambda o: o == {"t": "status", "state": "connecting"}, 20)
        else:
            await c.call("Page.addScriptToEvaluateOnNewDocument", dict(
                source=shims.sockets(a.sockets) + shims.requests(a.lost_requests) + shims.script(self.role, a.host)), self.session)
            r = await c.call("Page.navigate", dict(url=url + "#android=" + self.nonce), self.session)
            if r.get("errorText"):
                raise Fault("navigation: %s" % r["errorText"])
            await self.wait(lambda o: o["t"] == "tproxy-android-init", 20)
            if self.role == "android64":
                told = await self.evaluate("hostSwap()")
                if told != "ok":
                    self.faults.append("at init: %s" % told)

    async def parent(self, reader, writer):
        try:
            await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            return writer.close()                    # opened in advance, and not used
        body = shims.PARENT.encode()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        await writer.drain()
        writer.close()

    async def wait(self, test, seconds):
        async with asyncio.timeout(seconds):
            while True:
                for _, o in self.controls:
                    if test(o):
                        return o
                self.changed.clear()
                await self.changed.wait()

    async def put(self, data):
        told = await self.evaluate('hostIn("b","%s")' % base64.b64encode(data).decode())
        if told != "ok":
            self.faults.append("app to page: %s" % told)

    async def control(self, o):
        await self.evaluate("hostIn('c',%s)" % json.dumps(json.dumps(o)))

    async def connect(self):
        """HELLO in, WELCOME out; then self.mux is a session of streams over this page."""
        self.hello_at = time.monotonic() - self.t0
        await self.put(w.HELLO_FRAME)
        async with asyncio.timeout(20):
            first = await self.binary.get()
        if first != w.WELCOME_FRAME:
            raise Fault("first message %s" % first[:16].hex())
        self.welcome_at = time.monotonic() - self.t0
        host, self.first_id = self, 0xABC0

        class Carrier:
            async def send(self, number, data):
                await host.put(data)
        mux = self.mux = websession.Session(self.a.host, self.a.secret_bytes, self.a.path, first_id=0xABC0)
        mux.carrier = Carrier()

        async def reader():
            while True:
                await mux.received(await self.binary.get())
        self.reader = asyncio.ensure_future(reader())

    async def close_target(self):
        await self.chromium.call("Target.closeTarget", dict(targetId=self.target))


async def one(a, role):
    """The report of one role; raises Fault."""
    report = collections.OrderedDict(role=role)
    chromium = Chromium(a.host, a.address)
    host = LAST[0] = Host(a, chromium, role)
    try:
        await chromium.connect()
        await host.start()
        await host.connect()
        report["hello_ms"], report["welcome_ms"] = round(host.hello_at * 1e3), round(host.welcome_at * 1e3)
        await host.wait(lambda o: o == {"t": "status", "state": "connected"}, 5)
        if role != "loopback":
            where = await host.evaluate("location.href")
            if where != "https://" + a.host + host.base:
                host.faults.append("the page is at %s" % where)
        streams = [await host.mux.open() for _ in range(a.streams)]
        began = time.monotonic()
        if a.reqpq:
            tags = ["dd"] if len(a.secret_bytes) == 17 else ["ef", "ee", "dd"]
            took = await asyncio.gather(*(mtproto.req_pq_over(s, a.secret_bytes, tags[i % len(tags)]) for i, s in enumerate(streams)))
            report["reqpq_ms"] = [round(t[0] * 1e3) for t in took]
        else:
            await asyncio.gather(*(mtproto.echo_over(s, a.secret_bytes, int(a.megabytes * 1048576), chunk=64 << 10) for s in streams))
            took = time.monotonic() - began
            report["echo_mib_s"] = round(a.megabytes * a.streams / took, 1)
        for s in streams[:-1]:
            await s.close()
        await asyncio.sleep(0.3)
        if host.mux.failure:
            host.faults.append("session: %s" % host.mux.failure)
        report["frames_per_message"] = dict(host.frames_per_message.most_common(4))
        if a.end == "close":
            await host.control({"t": "close"})
        else:
            await host.close_target()
        await asyncio.sleep(0.3)
        report["status"] = [o["state"] for _, o in host.controls if o["t"] == "status"]
        report["order"] = [o["t"] for _, o in host.controls][:3]
        report["network"] = {" ".join(map(str, k)): v for k, v in host.network.items()}
        if host.faults:
            report["faults"] = host.faults[:6]
    finally:
        if host.reader:
            host.reader.cancel()
        chromium.close()
    return report


async def run(a):
    bad = 0
    roles = ["desktop", "loopback", "android", "android64", "ios"] if a.role == "all" else a.role.split(",")
    for role in roles:
        try:
            report = await one(a, role)
        except (Fault, TimeoutError, w.WireError, websession.StreamClosed) as e:
            report = dict(role=role, error=repr(e)[:300], seen=LAST[0].controls[-4:], faults=LAST[0].faults[:5])
        bad += bool(report.get("faults") or report.get("error"))
        print(json.dumps(report), flush=True)
    return 1 if bad else 0


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--role", default="all")
    p.add_argument("--host", default="proxy.example.com")
    p.add_argument("--path", default="")
    p.add_argument("--secret", default="000102030405060708090a0b0c0d0e0f")
    p.add_argument("--address", required=True)
    p.add_argument("--sockets", choices=("whole", "refused", "lost", "lost-again"), default="whole")
    p.add_argument("--lost-requests", type=int, default=0)
    p.add_argument("--reqpq", action="store_true")
    p.add_argument("--megabytes", type=float, default=1)
    p.add_argument("--streams", type=int, default=3)
    p.add_argument("--end", choices=("close", "unload"), default="close")
    a = p.parse_args()
    a.secret_bytes = w.secret_bytes(a.secret)
    sys.exit(asyncio.run(run(a)))


if __name__ == "__main__":
    main()
