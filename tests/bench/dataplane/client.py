"""The load client: closed-loop and paced unary connections, and long streams that count events.

Not a checker of HTTP: inside the measured window a response is judged by exact body bytes and the status line,
an event by its one MARK byte. Each cell begins with exchanges that a strict parser (httptools) reads in full.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable

import httptools

from tests.bench.dataplane.backend import Fleet
from tests.bench.dataplane.loop import OUT, RECEIVE_BYTES_MAX, Endpoint, Loop
from tests.bench.dataplane.messages import DONE_EVENT, MARK, UNARY_BODY, event, request_bytes

CHUNKED_UNARY_END = UNARY_BODY + b"\r\n0\r\n\r\n"
OK_LINE = b"HTTP/1.1 200"
LATENCY_SAMPLES_MAX = 200_000


class Tally:
    """What the clients of one cell saw."""

    def __init__(self) -> None:
        self.requests = 0
        self.events = 0
        self.errors = 0
        self.first_error = ""
        self.latency_s: list[float] = []  # Whole unary exchanges, or time to the first event of a stream.
        self.ending = False  # Set just before the backends end their streams.

    def fail(self, what: str) -> None:
        self.errors += 1
        self.first_error = self.first_error or what


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=5)


class Unary(Endpoint):
    """One keep-alive connection with at most one request in flight."""

    __slots__ = ("_buffer", "_on_free", "_request", "_sent_at", "_tally")

    def __init__(self, loop: Loop, port: int, name: str, tally: Tally, on_free: Callable[[Unary], None]) -> None:
        super().__init__(loop, connect(port))
        self._request = request_bytes(name, stream=False, host=f"127.0.0.1:{port}")
        self._tally = tally
        self._on_free = on_free
        self._buffer = b""
        self._sent_at = 0.0

    def ask(self) -> None:
        self._sent_at = time.perf_counter()
        self.write(self._request)

    def on_event(self, mask: int) -> None:
        if mask & OUT and self.pending:
            self.flush()
        try:
            data = self.receive(RECEIVE_BYTES_MAX)
        except BlockingIOError:
            return None
        except OSError as error:
            return self._broken(f"unary connection: {error}")
        if not data:
            return self._broken("unary connection closed by the router")
        if self._buffer:
            data = self._buffer + data
        if data.endswith((UNARY_BODY, CHUNKED_UNARY_END)):
            self._buffer = b""
            tally = self._tally
            if data.startswith(OK_LINE):
                tally.requests += 1
                if len(tally.latency_s) < LATENCY_SAMPLES_MAX:
                    tally.latency_s.append(time.perf_counter() - self._sent_at)
                return self._on_free(self)
            return self._broken(f"unary response: {data[:80]!r}")
        if data.startswith(OK_LINE[: len(data)]) and len(data) < RECEIVE_BYTES_MAX:
            self._buffer = data
            return None
        return self._broken(f"unary response: {data[:200]!r}")

    def _broken(self, what: str) -> None:
        self._tally.fail(what)
        self.close()


class StreamReader(Endpoint):
    """One streamed exchange. `credit` asks the backend for the next event as soon as one has arrived."""

    __slots__ = ("_credit", "_fleet", "_head", "_kept", "_sent_at", "_tail", "_tally", "ended", "name", "seen")

    def __init__(self, loop: Loop, port: int, name: str, tally: Tally, fleet: Fleet, *, credit: bool) -> None:
        super().__init__(loop, connect(port))
        self.name = name
        self.seen = 0
        self.ended = False
        self._tally = tally
        self._fleet = fleet
        self._credit = credit
        self._head: bytes | None = b""  # None: the head is complete and says 200.
        self._tail = b""
        self._kept: list[bytes] | None = None
        self._sent_at = time.perf_counter()
        self.write(request_bytes(name, stream=True, host=f"127.0.0.1:{port}"))

    def keep_bytes(self) -> None:
        """Keep everything received, for `check_bytes`."""
        self._kept = []

    def on_event(self, mask: int) -> None:
        if mask & OUT and self.pending:
            self.flush()
        try:
            data = self.receive(RECEIVE_BYTES_MAX)
        except BlockingIOError:
            return None
        except OSError as error:
            return self._broken(f"stream {self.name}: {error}")
        if not data:
            return self._broken(f"stream {self.name} closed by the router after {self.seen} events")
        if self._kept is not None:
            self._kept.append(data)
        if self._head is not None and not self._on_head(data):
            return None
        events = data.count(MARK)
        if events:
            if not self.seen:
                self._tally.latency_s.append(time.perf_counter() - self._sent_at)
            self.seen += events
            self._tally.events += events
            if self._credit and not self._tally.ending:
                self._fleet.release(self.name, events)
        if self._tally.ending:
            self._tail = (self._tail + data)[-256:]
            self.ended = self._tail.endswith(b"0\r\n\r\n") and DONE_EVENT in self._tail
        return None

    def _on_head(self, data: bytes) -> bool:
        assert self._head is not None
        self._head += data
        if not self._head.startswith(OK_LINE[: len(self._head)]):
            self._broken(f"stream {self.name}: {self._head[:200]!r}")
            return False
        if b"\r\n\r\n" not in self._head:
            return False
        self._head = None
        return True

    def check_bytes(self) -> None:
        """Parse what was kept: 200, exact events, a DONE event and a clean end."""
        assert self._kept is not None
        whole = _Parsed()
        try:
            httptools.HttpResponseParser(whole).feed_data(b"".join(self._kept))
        except httptools.HttpParserError as error:
            return self._tally.fail(f"stream {self.name}: {error}")
        if not whole.complete:
            return self._tally.fail(f"stream {self.name}: response has no end")
        if b"".join(whole.body) != event(self.name) * self.seen + DONE_EVENT:
            return self._tally.fail(f"stream {self.name}: body differs from what the backend sent")
        return None

    def _broken(self, what: str) -> None:
        if not self.ended:
            self._tally.fail(what)
        self.close()


class _Parsed:
    def __init__(self) -> None:
        self.body: list[bytes] = []
        self.complete = False

    def on_body(self, body: bytes) -> None:
        self.body.append(body)

    def on_message_complete(self) -> None:
        self.complete = True
