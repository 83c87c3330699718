"""A network of its own in which the unpatched handler, served by the real Lambda stack, meets
hostile servers.

    unshare --net --mount python tests/tiny_internet.py MODEL.tflite

On the loopback interface lie a public address, with a server that behaves in every bad way, and
private ones, on which any connection is noted. A name server answers for *.example, sometimes with
changing addresses. The file system is read-only but for a temporary folder. Prints as JSON what was
answered, how long it took, and what was reached. Needs root, of a user namespace at least.
"""

import contextlib
import gzip
import http.server
import itertools
import json
import os
import socket
import socketserver
import ssl
import struct
import subprocess
import sys
import threading
import time
import traceback
import zlib
from pathlib import Path
from urllib.parse import unquote

import certifi
import hostile_urls
import odd_images
from emulator import emulator

PUBLIC, PUBLIC6, SILENT = "93.184.216.34", "2606:2800:220:1::1", "93.184.216.35"
PRIVATE = hostile_urls.words("""
    10.0.0.1 172.16.0.1 192.168.0.1 169.254.169.254 169.254.170.2 100.64.0.1 168.63.129.16
    192.0.2.1 198.18.0.1 fd00::1 fe80::1 fec0::1 fc00::1 2001:db8::1 ::5db8:d822 ::ffff:0:5db8:d822
""")
UNFIT = hostile_urls.words("""
    gzip_large deflate_large br huge huge_length huge_chunked status/404 status/204 status/206
    status/500 html nothing garbage
""")
SLOW = hostile_urls.words("drip drip_header silence")
NAMES = {
    "public.example": [PUBLIC],
    "public6.example": [PUBLIC6],
    "both.example": [PUBLIC, PUBLIC6],
    "other.example": [PUBLIC],  # not in the certificate
    "silent.example": [SILENT],
    "late.example": [PUBLIC],  # after LATE seconds
    "loopback.example": ["127.0.0.1"],
    "loopback6.example": ["::1"],
    "private.example": ["10.0.0.1"],
    "metadata.example": ["169.254.169.254"],
    "mapped.example": ["::ffff:127.0.0.1"],
    "mixed.example": [PUBLIC, "127.0.0.1"],
    "mixed6.example": [PUBLIC, "::1"],
    "first.mixed.example": ["127.0.0.1", PUBLIC],
    "alias.example": ["0.0.0.0"],
}
ALLOWED = hostile_urls.words(f"""
    http://public.example/dog.jpg http://PUBLIC.example:80/dog.jpg?size=large&name=größe#top
    http://public6.example/dog.jpg http://both.example/dog.jpg http://{PUBLIC}/dog.jpg
    http://[{PUBLIC6}]/dog.jpg https://public.example/dog.jpg https://public.example:443/dog.jpg
    http://public.example:080/dog.jpg http://public.example/steps/10 http://public.example/gzip
    http://public.example/302?/dog.jpg http://public.example/307?dog.jpg
    http://public.example/302?https://public.example/dog.jpg http://public.example/cookie
    http://public.example/chunked
""")
ALLOWED += [
    " http://public.example/dog.jpg\r\n",
    "http://public.example/302?http://public.example/dog.jpg?a b",
    "http://public.exa\nmple/dog.jpg",
    "https://public.example/dog.jpg?X-Amz-Security-Token=" + "A" * 4000,
]
LATE = 8.3
# Of *.changing.example; slow.example gets no answer at all
CHANGING = itertools.cycle([PUBLIC, "127.0.0.1"])
DOG = odd_images.saved(odd_images.drawn_image(), format="JPEG")
reached: list[str] = []  # private address or wrong port that somebody connected to
requests: list[dict] = []  # headers that the public server got


def main() -> None:
    """Set up the network, ask the handler, report."""
    model = Path(sys.argv[1])
    set_up()
    threading.Thread(target=serve_names, daemon=True).start()
    for port in (80, 443, 22, 6379, 8080):
        threading.Thread(target=serve_port, args=(port,), daemon=True).start()
    report: dict = {"hostile": [], "allowed": {}, "refused": {}, "slow": {}}
    with emulator(model) as stack:
        stack.invoke({})  # the runtime is up
        urls = [*hostile_urls.direct_urls(), *hostile_urls.redirecting_urls()]
        for start in range(0, len(urls), 10):
            some = urls[start : start + 10]
            report["hostile"] += zip(
                some, stack.invoke({"urls": some, "top_k": 1})["predictions"], strict=True
            )
        for url in ALLOWED:
            report["allowed"][url] = stack.invoke({"url": url, "top_k": 1})
        for path in UNFIT:
            report["refused"][path] = stack.invoke({"url": f"http://public.example/{path}"})
        for url in ("https://other.example/dog.jpg", f"https://{PUBLIC}/dog.jpg"):
            report["refused"][url] = stack.invoke({"url": url})
        slow = [f"http://public.example/{path}" for path in SLOW]
        slow += [
            f"http{name}.example/dog.jpg"
            for name in ("://slow", "://late", "s://silent", "://public")
        ]
        report["slow"] = dict(
            zip(slow, stack.invoke({"urls": slow, "top_k": 1})["predictions"], strict=True)
        )
        report["slow_ms"] = stack.log()["download_ms"]
        tasks, until = f"/proc/{stack.runtime_pid()}/task", time.monotonic() + 300
        while len(os.listdir(tasks)) > 4 and time.monotonic() < until:
            time.sleep(0.1)
        report["threads_left"] = len(os.listdir(tasks))
        report["after"] = stack.invoke({"url": "http://public.example/dog.jpg", "top_k": 1})
        report["printed"] = stack.printed()
    report.update(reached=list(reached), requests=requests)
    reached.clear()
    for address in ("127.0.0.1", "::1", *PRIVATE):  # what the trap is worth
        with contextlib.suppress(OSError):
            socket.create_connection((address, 80), 1).close()
    time.sleep(0.5)
    report["trap"] = reached
    print(json.dumps(report))


# --- Network --------------------------------------------------------------------------------------


def set_up() -> None:
    """Addresses, the name server's address, a certificate that is trusted here, a read-only file
    system.
    """
    for command in (
        "ip link set lo up",
        *(
            f"ip addr add {address} dev lo nodad"
            for address in (PUBLIC6, *(a for a in PRIVATE if ":" in a))
        ),
        *(
            f"ip addr add {address} dev lo"
            for address in (PUBLIC, SILENT, *(a for a in PRIVATE if ":" not in a))
        ),
        "mount -t tmpfs tmpfs /mnt",
        "openssl req -x509 -newkey rsa:2048 -nodes -days 2"
        " -keyout /mnt/key.pem -out /mnt/certificate.pem"
        " -subj /CN=public.example -addext subjectAltName=DNS:public.example",
    ):
        subprocess.run(command.split(), check=True, capture_output=True)
    Path("/mnt/resolv.conf").write_text("nameserver 127.0.0.1\noptions timeout:25 attempts:1\n")
    Path("/mnt/hosts").write_text(
        "127.0.0.1 localhost localhost.localdomain\n::1 localhost ip6-localhost\n"
    )
    for source, target in (
        ("/mnt/resolv.conf", os.path.realpath("/etc/resolv.conf")),
        ("/mnt/hosts", "/etc/hosts"),
        ("/mnt/certificate.pem", certifi.where()),
    ):
        subprocess.run(["mount", "--bind", source, target], check=True)
    subprocess.run(["mount", "-o", "remount,ro,bind", "/"], check=True)
    os.environ["TMPDIR"] = "/mnt"


def serve_names() -> None:
    """A name server on UDP port 53."""
    asked_late = 0.0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 53))
        while True:
            query, sender = server.recvfrom(4096)
            labels, position = [], 12
            while length := query[position]:
                labels.append(query[position + 1 : position + 1 + length].decode("latin-1").lower())
                position += 1 + length
            (kind,) = struct.unpack(">H", query[position + 1 : position + 3])
            name, family = ".".join(labels), {1: socket.AF_INET, 28: socket.AF_INET6}.get(kind)
            if name == "slow.example":
                continue
            addresses = NAMES.get(name, [])
            if name.endswith("changing.example") and family == socket.AF_INET:
                addresses = [next(CHANGING)]
            records = b""
            for address in addresses:
                if (":" in address) == (family == socket.AF_INET6):
                    data = socket.inet_pton(family, address)
                    records += struct.pack(">HHHIH", 0xC00C, kind, 1, 0, len(data)) + data
            count = records.count(b"\xc0\x0c" + query[position + 1 : position + 3])
            status = 0x8180 if name in NAMES or "changing" in name else 0x8183
            header = query[:2] + struct.pack(">HHHHH", status, 1, count, 0, 0)
            reply = header + query[12 : position + 5] + records
            if name == "late.example":
                asked_late = asked_late or time.monotonic()
                wait = asked_late + LATE - time.monotonic()
                threading.Timer(max(wait, 0), server.sendto, (reply, sender)).start()
            else:
                server.sendto(reply, sender)


def serve_port(port: int) -> None:
    """Serve one port on all addresses of both families."""

    class Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
        address_family, allow_reuse_address, daemon_threads, request_queue_size = (
            socket.AF_INET6,
            True,
            True,
            100,
        )

        def server_bind(self) -> None:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            super().server_bind()

        def handle_error(self, request: socket.socket, address: tuple) -> None:
            """Nothing: clients that hang up are what is wanted here."""

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain("/mnt/certificate.pem", "/mnt/key.pem")

    class Handler(http.server.BaseHTTPRequestHandler):
        def setup(self) -> None:
            address = self.request.getsockname()[0].removeprefix("::ffff:")
            if address == SILENT:
                time.sleep(90)
            elif address not in (PUBLIC, PUBLIC6) or port not in (80, 443):
                reached.append(f"{address} port {port}")
            elif port == 443:
                self.request = context.wrap_socket(self.request, server_side=True)
            super().setup()

        def do_GET(self) -> None:
            requests.append(dict(self.headers))
            answer(self)

        def log_message(self, *args: object) -> None:
            """Nothing."""

    Server(("::", port), Handler).serve_forever()


# --- The public server ----------------------------------------------------------------------------

OK = b"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\n"
# How an answer starts, the block that it repeats, how often, and the seconds between two blocks
BLOCKS = {
    "huge": (OK + b"\r\n", DOG + bytes(2**20), 12, 0),
    "huge_length": (OK + b"Content-Length: 99999999\r\n\r\n", DOG + bytes(2**20), 12, 0),
    "huge_chunked": (
        OK + b"Transfer-Encoding: chunked\r\n\r\n",
        b"100000\r\n" + bytes(2**20) + b"\r\n",
        12,
        0,
    ),
    "drip": (OK + b"Content-Length: 5000000\r\n\r\n", b"\xff", 900, 0.1),
    "drip_header": (OK + b"X-Long: ", b"x", 900, 0.1),
}


PACKED = {  # bodies, each with the Content-Encoding that its name begins with
    "gzip": gzip.compress(DOG),
    "gzip_large": gzip.compress(bytes(11_000_000)),
    "deflate_large": zlib.compress(bytes(11_000_000)),
    "br": b"\x0b\x02\x80",
}


def answer(request: http.server.BaseHTTPRequestHandler) -> None:
    """Behave as the path says."""
    path, _, query = request.path.lstrip("/").partition("?")
    send = request.wfile.write

    def redirect(url: str, status: int = 302) -> None:
        send(f"HTTP/1.1 {status} Moved\r\nLocation: {url}\r\nContent-Length: 0\r\n\r\n".encode())

    if path in ("dog.jpg", "check_cookie"):
        send(OK + b"Content-Length: %d\r\n\r\n" % len(DOG) + DOG)
    elif path.isdigit():
        redirect(unquote(query), int(path))
    elif path.startswith("steps/"):
        left = int(path.removeprefix("steps/"))
        redirect(f"/steps/{left - 1}" if left > 1 else "/dog.jpg")
    elif path == "loop":
        redirect("/loop")
    elif path == "refresh":
        send(b"HTTP/1.1 200 OK\r\nRefresh: 0; url=http://127.0.0.1/\r\nContent-Length: 0\r\n\r\n")
    elif path == "cookie":
        send(
            b"HTTP/1.1 302 Moved\r\nSet-Cookie: a=b; Path=/\r\n"
            b"Location: /check_cookie\r\nContent-Length: 0\r\n\r\n"
        )
    elif path == "chunked":
        blocks = b"".join(
            b"%x\r\n%b\r\n" % (len(DOG[i : i + 100]), DOG[i : i + 100])
            for i in range(0, len(DOG), 100)
        )
        send(OK + b"Transfer-Encoding: chunked\r\n\r\n" + blocks + b"0\r\n\r\n")
    elif path in PACKED:
        body, coding = PACKED[path], path.partition("_")[0].encode()
        head = b"Content-Encoding: %b\r\nContent-Length: %d\r\n\r\n" % (coding, len(body))
        send(OK + head + body)
    elif path.startswith("status/"):
        send(
            b"HTTP/1.1 %d Status\r\nContent-Length: %d\r\n\r\n"
            % (int(path.removeprefix("status/")), len(DOG))
            + DOG
        )
    elif path == "html":
        send(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n<!doctype html><title>A dog</title>"
        )
    elif path == "garbage":
        send(b"\xff\xd8\xff" * 1000)
    elif path in BLOCKS:
        start, block, times, pause = BLOCKS[path]
        send(start)
        for _ in range(times):
            send(block)
            time.sleep(pause)
    elif path == "silence":
        time.sleep(90)


if __name__ == "__main__":
    try:
        main()
    except Exception:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)  # not waiting for the servers
