"""A fake admin port: canned pages over real HTTP, in a thread, for tests of commands that run a loop of their own.

Not a fake of meshd: it answers what the test put there, and remembers what was asked.
"""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType

import msgspec


class FakeAdmin:
    """`with FakeAdmin({"/v1/nodes": {...}}) as admin:` and then `admin.url`."""

    def __init__(self, pages: dict[str, object] | None = None) -> None:
        self._pages: dict[str, tuple[int, bytes]] = {}
        self.asked: list[str] = []  # Paths with their queries, in order.
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _answerer(self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        for path, value in (pages or {}).items():
            self.put(path, value)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def put(self, path: str, value: object, *, status: int = 200) -> None:
        """Answer `path` (without its query) with `value`: bytes as they are, anything else as JSON."""
        self._pages[path] = (status, value if isinstance(value, bytes) else msgspec.json.encode(value))

    def answer(self, target: str) -> tuple[int, bytes]:
        self.asked.append(target)
        return self._pages.get(target.partition("?")[0], (404, b""))

    def __enter__(self) -> FakeAdmin:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _answerer(admin: FakeAdmin) -> type[BaseHTTPRequestHandler]:
    class Answerer(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            status, body = admin.answer(self.path)
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Nothing: tests read stderr."""

    return Answerer
