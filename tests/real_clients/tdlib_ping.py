#!/usr/bin/env python3
"""Drive TDLib, the library inside Telegram's own clients, through a proxy.

Checks, in this order (choose with --checks):

  ping     pingProxy: FakeTLS handshake, then two req_pq_multi round trips to
           the data centre.  TDLib checks the HMAC of the proxy's ServerHello
           and reports the second round trip in seconds.  It does not look
           inside the data centre's answers.
  test     testProxy: the whole auth-key handshake with a data centre.
  session  addProxy and enable it, then let TDLib run by itself until it says
           connectionStateReady, which takes an auth key and a working encrypted
           session on the main data centre.
  files    after `session`: log in as a bot, upload a file and download others
           from this and another data centre, as TDLib does it, over connections
           of their own, and compare what arrived (of the upload, in the log that
           --dc-log names).  A transfer that stands still for --stall seconds
           fails, however long it might have taken.

`test`, `session` and `files` need the data centre to hold the RSA key that TDLib knows,
so pass --public-key FILE with the mock's key: a copy of the library is then
patched to know that key (see patch_rsa_key.py).

Prints one JSON object and exits 0 if every check passed.

Needs: libtdjson, for example from `pip install tdjson` (found by itself in
that package) or given with --lib.
"""

import argparse
import base64
import ctypes
import glob
import hashlib
import importlib.util
import json
import os
import struct
import sys
import tempfile
import time

import patch_rsa_key
from mock_dc import synthetic_file

API_ID, API_HASH = 94575, "a3406de8d171bb422bb6ddf3bbd800e2"  # TDLib's own example values


def bundled_library():
    spec = importlib.util.find_spec("tdjson")
    if spec is None or not spec.origin:
        return None
    package = os.path.dirname(spec.origin)
    for pattern in ("../tdjson.libs/libtdjson*", "libtdjson*"):
        for path in glob.glob(os.path.join(package, pattern)):
            return os.path.realpath(path)
    return None


class TdJson:
    """TDLib's JSON interface, with one client."""

    def __init__(self, library, verbosity, log_path):
        self.lib = ctypes.CDLL(library)
        self.lib.td_create_client_id.restype = ctypes.c_int
        self.lib.td_send.argtypes = [ctypes.c_int, ctypes.c_char_p]
        self.lib.td_receive.argtypes = [ctypes.c_double]
        self.lib.td_receive.restype = ctypes.c_char_p
        self.lib.td_execute.argtypes = [ctypes.c_char_p]
        self.lib.td_execute.restype = ctypes.c_char_p
        self.execute({"@type": "setLogVerbosityLevel", "new_verbosity_level": verbosity})
        if log_path:
            stream = {"@type": "logStreamFile", "path": log_path, "max_file_size": 1 << 28}
            self.execute({"@type": "setLogStream", "log_stream": stream})
        self.client = self.lib.td_create_client_id()
        self.updates, self.requests = [], 0

    def execute(self, request):
        return json.loads(self.lib.td_execute(json.dumps(request).encode()) or b"null")

    def send(self, request):
        self.requests += 1
        request["@extra"] = self.requests
        self.lib.td_send(self.client, json.dumps(request).encode())
        return self.requests

    def receive(self, timeout):
        raw = self.lib.td_receive(timeout)
        return json.loads(raw) if raw else None

    def call(self, request, timeout):
        """Send a request and return its answer; updates meanwhile are kept."""
        extra, deadline = self.send(request), time.monotonic() + timeout
        while time.monotonic() < deadline:
            got = self.receive(min(1.0, max(0.0, deadline - time.monotonic())))
            if got is None:
                continue
            if got.get("@extra") == extra:
                return got
            self.updates.append(got)
        return {"@type": "error", "code": 0, "message": "no answer from TDLib in %g s" % timeout}

    def transfer(self, request, progress, size, watch, timeout):
        """Send a request and follow its file to the last byte.

        `progress` tells how much of a file object is done.  Returns the file
        object, or an error.
        """
        file = self.call(request, 10)
        if file["@type"] == "error":
            return file
        deadline = time.monotonic() + timeout
        while progress(file) < size:
            watch.saw(progress(file))
            if watch.stalled():
                message = "no progress for %g s at %d of %d bytes" % (watch.stall, watch.most, size)
                return {"@type": "error", "code": 0, "message": message}
            if time.monotonic() > deadline:
                return {"@type": "error", "code": 0, "message": "not done in %g s" % timeout}
            update = self.wait_for(lambda u: u.get("file", {}).get("id") == file["id"], 1)
            if update is not None:
                file = update["file"]
        return file

    def wait_for(self, wanted, timeout):
        """Return the first update, kept or new, that `wanted` accepts, or None."""
        deadline = time.monotonic() + timeout
        while True:
            while self.updates:
                update = self.updates.pop(0)
                if wanted(update):
                    return update
            left = deadline - time.monotonic()
            if left <= 0:
                return None
            got = self.receive(min(1.0, left))
            if got is not None:
                self.updates.append(got)


class Watch:
    """Gives up on a transfer that makes no progress, and remembers the longest pause.

    A stalled relay can look merely slow, because the client's own pings set it
    going again once a minute.
    """

    def __init__(self, stall):
        self.stall, self.most, self.longest = stall, -1, 0.0
        self.since = time.monotonic()

    def saw(self, count):
        pause = time.monotonic() - self.since
        self.longest = max(self.longest, pause)
        if count > self.most:
            self.most, self.since = count, time.monotonic()

    def stalled(self):
        self.longest = max(self.longest, time.monotonic() - self.since)
        return time.monotonic() - self.since > self.stall


def state_is(name):
    def accept(update):
        return (
            update["@type"] == "updateAuthorizationState"
            and update["authorization_state"]["@type"] == name
        )

    return accept


def start(td, args):
    """Start TDLib without a network, so that it opens no connection of its own yet."""
    td.send({"@type": "getOption", "name": "version"})  # TDLib begins with the first request
    if td.wait_for(state_is("authorizationStateWaitTdlibParameters"), 10) is None:
        raise RuntimeError("TDLib did not ask for its parameters")
    # TDLib keeps this request until it has its parameters and runs it first.
    td.send({"@type": "setNetworkType", "type": {"@type": "networkTypeNone"}})
    answer = td.call(
        {
            "@type": "setTdlibParameters",
            "database_directory": args.directory,
            "files_directory": args.directory,
            "use_test_dc": args.test_dc,
            "use_file_database": False,
            "use_chat_info_database": False,
            "use_message_database": False,
            "api_id": API_ID,
            "api_hash": API_HASH,
            "system_language_code": "en",
            "device_model": "realclients",
            "system_version": "1",
            "application_version": "1",
        },
        10,
    )
    if answer["@type"] != "ok":
        raise RuntimeError("setTdlibParameters: %s" % answer)


def outcome(answer, seconds, **more):
    ok = answer["@type"] != "error"
    result = {"ok": ok, "took": round(seconds, 3), **more}
    if not ok:
        result["error"] = "%s %s" % (answer.get("code"), answer.get("message"))
    return result


def check_ping(td, proxy, args):
    results = []
    for _ in range(args.count):
        began = time.monotonic()
        answer = td.call({"@type": "pingProxy", "proxy": proxy}, args.timeout + 5)
        results.append(outcome(answer, time.monotonic() - began, rtt=answer.get("seconds")))
    return {"ok": all(r["ok"] for r in results), "pings": results}


def check_test(td, proxy, args):
    results = {}
    for dc_id in args.dc:
        began = time.monotonic()
        request = {"@type": "testProxy", "proxy": proxy, "dc_id": dc_id, "timeout": args.timeout}
        answer = td.call(request, args.timeout + 5)
        results["dc%d" % dc_id] = outcome(answer, time.monotonic() - began)
    return {"ok": all(r["ok"] for r in results.values()), **results}


def check_session(td, proxy, args):
    began = time.monotonic()
    if proxy is not None:
        answer = td.call({"@type": "addProxy", "proxy": proxy, "enable": True}, 10)
        if answer["@type"] == "error":
            return outcome(answer, time.monotonic() - began)
    td.call({"@type": "setNetworkType", "type": {"@type": "networkTypeOther"}}, 10)

    states = []

    def ready(update):
        if update["@type"] == "updateConnectionState":
            states.append(update["state"]["@type"].replace("connectionState", ""))
        return bool(states) and states[-1] == "Ready"

    reached = td.wait_for(ready, args.timeout) is not None
    took = time.monotonic() - began
    return {"ok": reached, "took": round(took, 3), "states": states}


def remote_file_id(dc_id, file_id, size):
    """TDLib's name for a document that mock_dc.py makes up."""
    document, reference_flag = 5, 1 << 25
    raw = struct.pack("<iiB3xqq", document | reference_flag, dc_id, 0, file_id, size)
    packed, zeros = bytearray(), 0
    for byte in raw + b"\xff":  # runs of zeros become a zero and their length
        if byte == 0:
            zeros += 1
            continue
        if zeros:
            packed += bytes([0, zeros])
            zeros = 0
        packed.append(byte)
    packed[-1:] = b"\x2f\x04"  # format versions, in place of the sentinel
    return base64.urlsafe_b64encode(packed).decode().rstrip("=")


def wait_log_in(td, timeout):
    answer = td.call({"@type": "checkAuthenticationBotToken", "token": "1234567:mock"}, timeout)
    if answer["@type"] != "error" and td.wait_for(state_is("authorizationStateReady"), timeout) is None:
        answer = {"@type": "error", "code": 0, "message": "no authorizationStateReady"}
    return answer


def logged_upload(path, digest, timeout):
    """Whether the data centre's log tells of an upload with this checksum."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        with open(path) as f:
            if any("upload_complete" in line and digest in line for line in f):
                return True
        time.sleep(0.2)
    return False


def speed(size, seconds):
    return round(size / seconds / 1e6, 2)


def check_upload(td, size, args):
    data = os.urandom(size)
    path = os.path.join(args.directory, "upload.bin")
    with open(path, "wb") as f:
        f.write(data)
    request = {"@type": "preliminaryUploadFile", "file_type": {"@type": "fileTypeDocument"}, "priority": 32}
    request["file"] = {"@type": "inputFileLocal", "path": path}
    began, watch = time.monotonic(), Watch(args.stall)
    answer = td.transfer(request, lambda file: file["remote"]["uploaded_size"], size, watch, args.timeout)
    took = time.monotonic() - began
    result = outcome(answer, took, mb_per_s=speed(size, took), longest_pause=round(watch.longest, 3))
    if result["ok"] and args.dc_log:
        digest = hashlib.sha256(data).hexdigest()
        result["ok"] = result["checksum"] = logged_upload(args.dc_log, digest, 5)
    return result


def check_download(td, dc_id, size, args):
    number = int.from_bytes(os.urandom(7), "little")
    request = {"@type": "getRemoteFile", "remote_file_id": remote_file_id(dc_id, number, size)}
    request["file_type"] = {"@type": "fileTypeDocument"}
    answer = td.call(request, 10)
    if answer["@type"] == "error":
        return outcome(answer, 0)
    request = {"@type": "downloadFile", "file_id": answer["id"], "priority": 32, "synchronous": False}

    def done(file):
        # The prefix is complete before the file has its name.
        local = file["local"]
        return size if local["is_downloading_completed"] else min(local["downloaded_size"], size - 1)

    began, watch = time.monotonic(), Watch(args.stall)
    answer = td.transfer(request, done, size, watch, args.timeout)
    took = time.monotonic() - began
    result = outcome(answer, took, mb_per_s=speed(size, took), longest_pause=round(watch.longest, 3))
    if result["ok"]:
        with open(answer["local"]["path"], "rb") as f:
            result["ok"] = result["checksum"] = f.read() == synthetic_file(number, 0, size)
    return result


def check_files(td, proxy, args):
    began = time.monotonic()
    answer = wait_log_in(td, args.timeout)
    if answer["@type"] == "error":
        return outcome(answer, time.monotonic() - began)
    report = {"log_in": round(time.monotonic() - began, 3)}
    size = int(args.megabytes * 1_000_000)
    report["upload"] = check_upload(td, size, args)
    for dc_id in args.file_dc:
        report["download_dc%d" % dc_id] = check_download(td, dc_id, size, args)
    parts = [value for value in report.values() if isinstance(value, dict)]
    report["ok"] = all(part["ok"] for part in parts)
    return report


CHECKS = {"ping": check_ping, "test": check_test, "session": check_session, "files": check_files}


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--server", help="the proxy's address, as TDLib is to take it; without it no proxy is used")
    parser.add_argument("--port", type=int, default=443)
    parser.add_argument("--secret", help="as in a tg://proxy link, hex or base64")
    parser.add_argument("--checks", default="ping", help="comma-separated: " + ", ".join(CHECKS))
    parser.add_argument("--count", type=int, default=3, help="how many pings")
    parser.add_argument("--dc", type=int, nargs="+", default=[2], help="data centres for `test`")
    parser.add_argument("--test-dc", action="store_true", help="use the test data centres, numbered from 10001")
    parser.add_argument("--timeout", type=float, default=20, help="seconds for each check")
    parser.add_argument("--megabytes", type=float, default=8, help="size of each transfer of `files`")
    parser.add_argument("--stall", type=float, default=20, help="seconds without progress that fail a transfer")
    parser.add_argument("--file-dc", type=int, nargs="+", default=[1, 4],
                        help="data centres for `files` to download from; TDLib logs in at 1")
    parser.add_argument("--dc-log", help="mock_dc.py's log, to verify what `files` uploaded")
    parser.add_argument("--lib", help="libtdjson; by default that of the tdjson package")
    parser.add_argument("--public-key", help="the mock data centre's key, to patch the library with")
    parser.add_argument("--verbosity", type=int, default=1, help="TDLib's log level, 0 to 1023")
    parser.add_argument("--td-log", help="file for TDLib's log; stderr by default")
    args = parser.parse_args()
    args.checks = args.checks.split(",")
    unknown = set(args.checks) - set(CHECKS)
    if unknown:
        parser.error("unknown checks: %s" % ", ".join(sorted(unknown)))
    if args.server is None and "test" in args.checks:
        parser.error("`test` needs a proxy")
    if "files" in args.checks and "session" not in args.checks[: args.checks.index("files")]:
        parser.error("`files` goes after `session`")
    return args


def proxy_of(args):
    if args.server is None:
        return None
    kind = {"@type": "proxyTypeMtproto", "secret": args.secret}
    return {"@type": "proxy", "server": args.server, "port": args.port, "type": kind}


def main():
    args = parse_args()
    library = args.lib or bundled_library()
    if library is None:
        sys.exit("tdlib_ping.py needs libtdjson: pip install tdjson, or pass --lib")
    with tempfile.TemporaryDirectory() as directory:
        args.directory = directory
        if args.public_key:
            patched = os.path.join(directory, "libtdjson.so")
            patch_rsa_key.patch_file(library, args.public_key, patched)
            library = patched
        td = TdJson(library, args.verbosity, args.td_log)
        start(td, args)
        version = td.call({"@type": "getOption", "name": "version"}, 5).get("value")
        report = {"tdlib": version, "patched_key": bool(args.public_key)}
        for name in args.checks:
            report[name] = CHECKS[name](td, proxy_of(args), args)
        td.send({"@type": "close"})
        td.wait_for(state_is("authorizationStateClosed"), 5)
    print(json.dumps(report, indent=1))
    return 0 if all(report[name]["ok"] for name in args.checks) else 1


if __name__ == "__main__":
    sys.exit(main())
