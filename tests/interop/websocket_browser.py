"""A page server and a headless Chromium that opens its page: what the page saw of a WebSocket comes back as JSON.

The page is tests/interop/websocket_page.html; it asks the server what to do, and posts what it saw.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

_PAGE: Final = Path(__file__).with_name("websocket_page.html")
# Nothing of it reaches out by itself; a machine without a network fails each of those connections slowly.
_FLAGS: Final = (
    "--headless",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
)


@dataclass
class PageServer:
    """`question`: what the page is told to do. `seen`: what it saw, once `done` is set."""

    port: int
    question: Mapping[str, object] = field(default_factory=dict)
    seen: dict[str, Any] = field(default_factory=dict)
    done: threading.Event = field(default_factory=threading.Event)

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@contextlib.contextmanager
def page_server() -> Iterator[PageServer]:
    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/question":
                self._answer("application/json", json.dumps(held.question).encode())
            elif self.path == "/":
                self._answer("text/html; charset=utf-8", _PAGE.read_bytes())
            else:
                self._answer("text/plain", b"")

        def do_POST(self) -> None:
            held.seen = json.loads(self.rfile.read(int(self.headers["content-length"])))
            self._answer("text/plain", b"")
            held.done.set()

        def _answer(self, content_type: str, body: bytes) -> None:
            self.send_response(200)
            self.send_header("content-type", content_type)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Page)
    held = PageServer(server.server_address[1])
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield held
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def visit(chromium: str, page: PageServer, folder: Path, *, timeout_s: float, more: tuple[str, ...] = ()) -> None:
    """Open the page and wait until it has said what it saw. `folder`: for the browser's profile and log."""
    # It refuses to be root in its own sandbox.
    sandbox = ("--no-sandbox",) if os.geteuid() == 0 else ()
    command = [chromium, *_FLAGS, *sandbox, *more, f"--user-data-dir={folder / 'profile'}", f"{page.origin}/"]
    with (
        (folder / "chromium.log").open("wb") as log,
        subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL) as process,
    ):
        try:
            assert page.done.wait(timeout_s), (folder / "chromium.log").read_text("utf-8", "replace")[-2000:]
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
