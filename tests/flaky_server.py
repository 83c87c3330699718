"""A local HTTP server for tests of downloads, with one fault for each request."""

import hashlib
import threading
import time
from email.utils import formatdate
from http.server import ThreadingHTTPServer

from handler_process import Silent

FAULTS = [
    "cut",  # sends the beginning, then closes the connection
    "cut at once",  # closes the connection before any byte of the file
    "drop",  # closes the connection without a response
    "stall",  # sends the beginning, then nothing more
    "ignore range",  # answers 200 with the whole file, whatever range was requested
    "ignore range, cut",
    "wrong range",  # answers 206 with another range than requested
    "shifted range",  # claims to send the requested range, but with another total size
    "too short",  # Content-Length is smaller than the file
    "too long",  # Content-Length is larger than the file
    "petabyte",  # Content-Length is larger than any disk
    # Neither Content-Length nor chunks, so the connection's end is the end of the file
    "no length",
    "no length, cut",
    "no validators",  # neither ETag nor Last-Modified
    "weak validators, cut",
    "change",  # serves another version of the file from now on
    "change, cut",
    "change, ignore range",
    "redirect",
    "redirect in circles",
    "empty",
    "403",
    "404",
    "429",
    "500",
    "503",
]


class FlakyServer:
    """Serves `versions`, a list of {name: bytes}, at `url`, with the next fault for each archive.

    After the last fault the server works well, with ranges, ETag and If-Range. `log` lists (name,
    range header, fault, bytes sent). `delay` is the pause in seconds after every 16 KiB.
    """

    def __init__(self, versions, faults=(), rng=None, delay=0.0):
        self.versions, self.faults, self.rng, self.delay = list(versions), list(faults), rng, delay
        self.log = []
        self.changed = False
        handler = type("Handler", (FlakyHandler,), {"flaky": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}/"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()

    def files(self):
        return self.versions[-1 if self.changed else 0]


class FlakyHandler(Silent):
    def do_GET(self):
        flaky, name = self.flaky, self.path.lstrip("/").removeprefix("moved/")
        fault = flaky.faults.pop(0) if name.endswith((".tar", ".tar.gz")) and flaky.faults else ""
        if fault.startswith("change"):
            flaky.changed = True
        body = flaky.files().get(name)
        if body is None:
            self.send_error(404)
        elif fault.isdecimal():
            self.send_error(int(fault))
        elif fault.startswith("redirect"):
            self.send_response(302)
            self.send_header("Location", self.path if "circles" in fault else f"/moved/{name}")
            self.end_headers()
            if "circles" in fault:
                flaky.faults.insert(0, fault)
        elif fault != "drop":
            self.send_file(name, body, fault)

    def send_file(self, name, body, fault):
        flaky, total, start = self.flaky, len(body), 0
        tag = f'"{hashlib.sha256(body).hexdigest()[:16]}"'
        requested = self.headers.get("Range")
        if requested and "ignore range" not in fault and self.headers.get("If-Range", tag) == tag:
            start = int(requested.removeprefix("bytes=").removesuffix("-"))
            if start >= total:
                self.send_error(416)
                return
            stated = {"wrong range": start // 2, "shifted range": start}.get(fault, start)
            self.send_response(206)
            self.send_header(
                "Content-Range",
                f"bytes {stated}-{total - 1}/{total + 7 * (fault == 'shifted range')}",
            )
            start = stated
        else:
            self.send_response(200)
        body = b"" if fault == "empty" else body[start:]
        if "no length" not in fault:
            lengths = {
                "too short": len(body) * 2 // 3,
                "too long": len(body) + 1000,
                "petabyte": 10**15,
            }
            self.send_header("Content-Length", str(lengths.get(fault, len(body))))
        if fault == "weak validators, cut":
            self.send_header("ETag", f"W/{tag}")
            self.send_header(
                "Last-Modified", formatdate(usegmt=True)
            )  # too recent to identify a version
        elif fault != "no validators":
            self.send_header("ETag", tag)
        self.end_headers()
        end = len(body)
        if "cut" in fault or fault == "stall":
            end = 0 if fault == "cut at once" else int(end * flaky.rng.random())
        sent = 0
        try:
            while sent < end:
                chunk = body[sent : min(sent + 16384, end)]
                self.wfile.write(chunk)
                sent += len(chunk)
                time.sleep(flaky.delay)
            if fault == "stall":
                self.wfile.flush()
                time.sleep(30)
        except OSError:  # the client has closed the connection
            pass
        flaky.log.append((name, requested, fault, sent))
        self.close_connection = True
