# SPDX-License-Identifier: Apache-2.0
"""A storage server: what gcsfs, TensorStore and Google's client ask of Cloud Storage, in
memory (`storage_objects`), with faults on demand.
"""

import contextlib
import dataclasses
import email.utils
import http.server
import itertools
import random
import socket
import socketserver
import threading
import time
from collections.abc import Iterator
from typing import Any

from storage_objects import Answer, Storage, failed


@dataclasses.dataclass
class Faults:
    """What goes wrong, and how often.

    Attributes:
      unavailable: the part of requests that get status 503.
      dropped: the part of requests whose connection is closed instead of an answer, by
        turns before the request is carried out, after it, and within the answer.
      down_until: seconds since the epoch until which every connection is closed.
      refused: whether every request is answered with 403.
      only: of paths and queries, where faults happen.
      seed: of the draws.
    """

    unavailable: float = 0.0
    dropped: float = 0.0
    down_until: float = 0.0
    refused: bool = False
    only: str = ""
    seed: int = 0

    def __post_init__(self):
        self.draws = random.Random(self.seed)
        self.turns = itertools.cycle(("before", "after", "within"))
        self.happened = 0


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, format, *args):
        del format, args

    def respond(self) -> None:
        server: Any = self.server
        faults, storage = server.faults, server.storage
        length = int(self.headers.get("Content-Length") or 0)
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            body = b"".join(self._chunks())
        else:
            body = self.rfile.read(length)
        if time.time() < faults.down_until:
            faults.happened += 1
            return self._drop()
        fault = self._fault(faults)
        if faults.refused:
            return self._send(failed(403, "the caller does not have permission"))
        if fault == "unavailable":
            return self._send(failed(503, "Service Unavailable"))
        if fault == "before":
            return self._drop()
        answer = storage.handle(self.command, self.path, self.headers, body)
        if fault == "after" or (fault == "within" and not answer.body):
            return self._drop()
        self._send(answer, cut=fault == "within")

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = respond

    def _fault(self, faults: Faults) -> str:
        if faults.only not in self.path:
            return ""
        drawn = faults.draws.random()
        if drawn < faults.unavailable:
            faults.happened += 1
            return "unavailable"
        if drawn < faults.unavailable + faults.dropped:
            faults.happened += 1
            return next(faults.turns)
        return ""

    def _chunks(self) -> Iterator[bytes]:
        while size := int(self.rfile.readline().split(b";")[0], 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()

    def _drop(self) -> None:
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def _send(self, answer: Answer, cut: bool = False) -> None:
        self.send_response_only(answer.status)
        headers = {"Date": email.utils.formatdate(usegmt=True)} | answer.headers
        for name, value in headers.items():
            self.send_header(name, value)
        if answer.status not in (204, 304):
            self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        body = answer.body[: len(answer.body) // 2] if cut else answer.body
        self.wfile.write(body)
        if cut:
            self.wfile.flush()
            self._drop()


class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    """A server in a thread of this process; use it as a context."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, *buckets: str, port: int = 0):
        super().__init__(("127.0.0.1", port), _Handler)
        self.storage, self.faults = Storage(*buckets), Faults()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    @property
    def variables(self) -> dict[str, str]:
        """What makes the libraries of another process use this server."""
        return {
            "STORAGE_EMULATOR_HOST": self.address,
            "TENSORSTORE_GCS_HTTP_URL": self.address,
            "GOOGLE_AUTH_TOKEN_FOR_TESTING": "none",
            "NO_GCE_CHECK": "true",
        }

    def __enter__(self):
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, exc_type, exc_val, exc_tb):
        self.shutdown()
        self.server_close()

    def handle_error(self, request, client_address):
        del request, client_address  # a client that went away
