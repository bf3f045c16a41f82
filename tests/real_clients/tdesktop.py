#!/usr/bin/env python3
"""Let Telegram Desktop connect through a proxy to mock_dc.py, and watch it stay.

Starts it with an empty profile on a display that no one sees, opens the
proxy's link as a click on a web page would, and says yes to the box that asks.
What the client makes of the connection is read from the data centre's log:
keys, sessions, pings, and every connection that ended.

Reports one JSON object on stdout; the exit code is 0 if all went well, that is:
a key was agreed on, the client went on to speak under it, and its main
connection was still the same after --watch seconds and a ping.

Needs: Python 3.9+, telegram-desktop, Xvfb, xdotool.
"""

import argparse
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import zlib

import patch_rsa_key

# Without GLX it draws by itself, which is quicker than OpenGL on a processor.
XVFB = ["Xvfb", "-screen", "0", "1024x768x24", "-nolisten", "tcp", "-extension", "GLX"]


class Desktop:
    """Telegram Desktop on a display of its own; both end with the `with` block."""

    def __init__(self, binary, directory):
        self.binary, self.directory, self.running = binary, directory, []
        self.log = open(os.path.join(directory, "output"), "w+")

    def __enter__(self):
        reading, writing = os.pipe()
        display = self.start(XVFB + ["-displayfd", str(writing), "-fbdir", self.directory], pass_fds=[writing])
        os.close(writing)
        with os.fdopen(reading) as told:
            number = told.readline().strip()
        if not number:
            raise RuntimeError("Xvfb ended with %s" % display.wait())
        home = os.path.join(self.directory, "home")
        os.mkdir(home, 0o700)
        self.environment = {
            "PATH": os.environ["PATH"], "DISPLAY": ":" + number, "LANG": "C.UTF-8",
            "HOME": home, "XDG_RUNTIME_DIR": home, "QT_QPA_PLATFORM": "xcb",
        }
        self.client = self.start(self.command(), env=self.environment)
        return self

    def start(self, command, **more):
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log, **more)
        self.running.append(process)
        return process

    def command(self, *more):
        return [self.binary, "-workdir", os.path.join(self.directory, "profile", ""), *more]

    def open_link(self, link):
        """Tell the running client through a second start, as a browser does."""
        subprocess.run(self.command("--", link), env=self.environment, stdout=self.log, stderr=self.log, timeout=30)

    def press(self, key):
        self.xdotool("key", key)

    def visible(self):
        """Whether it shows its window; a second start before that would be a client of its own."""
        return self.xdotool("search", "--onlyvisible", "--class", "telegram").returncode == 0

    def xdotool(self, *words):
        command = ["xdotool", *words]
        return subprocess.run(command, env=self.environment, stdout=self.log, stderr=self.log, timeout=30)

    def ended(self):
        return self.client.poll() is not None

    def __exit__(self, *_):
        for process in reversed(self.running):
            process.send_signal(signal.SIGKILL)
            process.wait()

    def output(self):
        self.log.seek(0)
        return self.log.read()


def screenshot(directory, path):
    """Write what the display shows, which Xvfb keeps in a file in the format of xwd, as PNG."""
    with open(os.path.join(directory, "Xvfb_screen0"), "rb") as f:
        dump = f.read()
    words = struct.unpack(">25I", dump[:100])
    width, height, line, start = words[4], words[5], words[12], words[0] + 12 * words[19]
    rows = bytearray()
    for y in range(height):
        row = dump[start + y * line:start + y * line + 4 * width]
        rgb = bytearray(3 * width)
        rgb[0::3], rgb[1::3], rgb[2::3] = row[2::4], row[1::4], row[0::4]
        rows += b"\0" + rgb

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    with open(path, "wb") as f:
        f.write(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head))
        f.write(chunk(b"IDAT", zlib.compress(bytes(rows))) + chunk(b"IEND", b""))


class DcLog:
    """What mock_dc.py has logged so far."""

    def __init__(self, path):
        self.path = path

    def events(self, kind=None):
        with open(self.path) as f:
            lines = f.read().rpartition("\n")[0].splitlines()
        return [event for event in map(json.loads, lines) if kind in (None, event["ev"])]

    def connections(self, kind):
        return [event["conn"] for event in self.events(kind)]

    def facts(self):
        """The main connection is the one with the most answered and unanswered requests."""
        requests = self.connections("rpc")
        main = max(set(requests), key=requests.count) if requests else None
        kinds = ["open", "transport", "auth_key", "session", "rpc", "ping", "close"]
        facts = {kind: len(self.events(kind)) for kind in kinds}
        facts["main_pings"] = self.connections("ping").count(main)
        facts["main_requests"] = requests.count(main)
        facts["main_closed"] = main in self.connections("close")
        return facts


def wait_for(what, timeout, desktop):
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline and not desktop.ended():
        if what():
            return True
        time.sleep(0.2)
    return False


def enter(desktop, dc, args):
    """Open the link and say yes until the data centre hears of it.

    Nothing tells when the box is there.  A key that comes too early presses the
    button of the first page, which does no harm.
    """
    deadline = time.monotonic() + args.timeout
    while time.monotonic() < deadline and not desktop.ended():
        desktop.open_link(args.link)
        time.sleep(1)
        desktop.press("Return")
        if wait_for(lambda: dc.events("transport"), 2, desktop):
            return True
    return False


def run(desktop, dc, args):
    report, began = {"ok": False}, time.monotonic()

    def step(name, done):
        report[name] = round(time.monotonic() - began, 1) if done else False
        return done

    done = step("visible", wait_for(desktop.visible, args.timeout, desktop))
    done = done and step("entered", enter(desktop, dc, args))
    done = done and step("key", wait_for(lambda: dc.events("auth_key"), args.timeout, desktop))
    done = done and step("spoke", wait_for(lambda: dc.facts()["main_requests"] >= 3, args.timeout, desktop))
    if done:
        before = dc.facts()
        # The first page's button: the next page asks the data centre for something.
        desktop.press("Return")
        more = lambda: dc.facts()["main_requests"] > before["main_requests"]
        done = step("asked", wait_for(more, args.timeout, desktop))
    if done:
        pinged = lambda: dc.facts()["main_pings"] > before["main_pings"]
        done = step("pinged", wait_for(pinged, args.watch + args.timeout, desktop))
        wait_for(lambda: time.monotonic() - began > args.watch, args.watch, desktop)
    facts = dc.facts()
    report.update(facts)
    report["ok"] = done and not desktop.ended() and not facts["main_closed"] and facts["open"] <= args.most
    return report


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--link", required=True, help="tg://proxy?server=…&port=…&secret=…")
    parser.add_argument("--dc-log", required=True, help="mock_dc.py's log, for this client alone")
    parser.add_argument("--public-key", required=True, help="the mock data centre's key, to patch the client with")
    parser.add_argument("--binary", default=shutil.which("telegram-desktop"), help="of Telegram Desktop")
    parser.add_argument("--timeout", type=float, default=45, help="seconds for each step")
    parser.add_argument("--watch", type=float, default=45, help="seconds that the connection must live")
    parser.add_argument("--most", type=int, default=6, help="connections that the data centre may see")
    parser.add_argument("--screenshot", help="file for a picture of the display after a failure")
    args = parser.parse_args()
    missing = [name for name in ("Xvfb", "xdotool") if shutil.which(name) is None]
    if args.binary is None or missing:
        parser.error("not installed: %s" % ", ".join(missing or ["telegram-desktop"]))
    return args


def main():
    args = parse_args()
    # A short path: the client makes sockets below its home.
    with tempfile.TemporaryDirectory(prefix="td-") as directory:
        binary = os.path.join(directory, "telegram-desktop")
        patch_rsa_key.patch_file(args.binary, args.public_key, binary)
        os.mkdir(os.path.join(directory, "profile"))
        with Desktop(binary, directory) as desktop:
            report = run(desktop, DcLog(args.dc_log), args)
            if not report["ok"]:
                print(desktop.output(), file=sys.stderr)
                if args.screenshot:
                    screenshot(directory, args.screenshot)
                    print("a picture of it: %s" % args.screenshot, file=sys.stderr)
    print(json.dumps(report, indent=1))
    return 0 if report["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
