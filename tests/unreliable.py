"""A proxy in front of a server that answers some requests as a busy or failing one does, the same ones for a seed."""

from __future__ import annotations

import http.client
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar
from urllib.parse import urlsplit

FAULTS = ("refused", "slow", "cut", "unanswered")
SLOW_S = 0.5
_HOP = {"connection", "transfer-encoding", "keep-alive"}
_BUSY = b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>Reduce your request rate.</Message></Error>"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    upstream: ClassVar[str]
    share: ClassVar[float]
    draw: ClassVar[random.Random]
    counts: ClassVar[Counter[str]]

    def _answer(self) -> None:
        body = self._body()
        fault = self.draw.choice(FAULTS) if self.draw.random() < self.share else "none"
        self.counts[fault] += 1
        if fault == "refused":
            self._send(503, {"Content-Type": "application/xml"}, _BUSY, len(_BUSY))
            return
        if fault == "slow":
            time.sleep(SLOW_S)
        upstream = http.client.HTTPConnection(self.upstream)
        headers = {name: value for name, value in self.headers.items() if name.lower() not in _HOP | {"expect"}}
        upstream.request(self.command, self.path, body, headers)
        answer = upstream.getresponse()
        content = answer.read()
        upstream.close()
        if fault == "unanswered":  # it was done, but nobody is told
            self._hang_up()
            return
        # Of what is cut off, a half arrives, where more was announced.
        shown = content[: len(content) // 2] if fault == "cut" else content
        self._send(answer.status, dict(answer.getheaders()), shown, len(content))
        if fault == "cut":
            self._hang_up()

    def __getattr__(self, name: str) -> object:
        """Every method of HTTP is answered alike: the server looks for do_GET, do_PUT, ..."""
        if name.startswith("do_"):
            return self._answer
        raise AttributeError(name)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _send(self, status: int, headers: dict[str, str], content: bytes, length: int) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            if name.lower() not in _HOP | {"content-length"}:
                self.send_header(name, value)
        is_head = self.command == "HEAD"
        self.send_header("Content-Length", headers.get("Content-Length", "0") if is_head else str(length))
        self.end_headers()
        with suppress(OSError):
            self.wfile.write(b"" if is_head else content)

    def _hang_up(self) -> None:
        self.close_connection = True
        with suppress(OSError):
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def unreliable(url: str, share: float, seed: int) -> Iterator[tuple[str, Counter[str]]]:
    """A proxy for the server at `url` that fails for a share of the requests. Yields its URL, and counts of faults."""
    counts = Counter[str]()
    members = {"upstream": urlsplit(url).netloc, "share": share, "draw": random.Random(seed), "counts": counts}
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), members))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", counts
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
