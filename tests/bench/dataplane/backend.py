"""Fake vLLM backends: enough of its HTTP API for any router to accept them, at a few microseconds a message.

Not an engine: no tokens, no queue. `Fleet` owns every open stream, paces them (each stream one event per
period, phases spread over it) or releases one event at a time on the client's demand. Over TLS the same server
stands in for a GPU node's mesh port.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable

from tests.bench.dataplane.loop import OUT, RECEIVE_BYTES_MAX, Endpoint, Loop, Ticker
from tests.bench.dataplane.messages import (
    MODELS_BODY,
    STREAM_END,
    STREAM_HEAD,
    UNARY_RESPONSE,
    chunk,
    event,
)

BACKLOG_LEN = 1024
NOT_FOUND = b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n"
STREAM_ID_KEY = b'"user":"'
STREAM_FLAG = b'"stream":true'


class Fleet:
    """The open streams of all backends, and the clock that feeds them."""

    def __init__(self, loop: Loop) -> None:
        # Under one name there are two while a router hedges.
        self.streams: dict[str, list[Stream]] = {}
        self.requests = 0
        self.events_sent = 0
        self._loop = loop
        self._slots: list[list[Stream]] = []
        self._ticker: Ticker | None = None
        self._slot = 0
        self._next_slot = 0

    def pace(self, events_per_s: float) -> None:
        """From now on each stream gets this many events a second; 0 leaves it to `Stream.release`."""
        if self._ticker is not None:
            self._ticker.close()
            self._ticker = None
        self._slots = []
        if events_per_s:
            self._slots = [[] for _ in range(round(1000 / events_per_s))]
            self._ticker = Ticker(self._loop, 0.001, self._tick)

    def opened(self, stream: Stream) -> None:
        self.streams.setdefault(stream.name, []).append(stream)
        stream.release()
        if self._slots:
            self._next_slot = (self._next_slot + 1) % len(self._slots)
            self._slots[self._next_slot].append(stream)

    def release(self, name: str, events: int) -> None:
        """Send this many events to whoever reads the stream of this name."""
        for stream in self.streams.get(name, ()):
            for _ in range(events):
                stream.release()

    def finish_all(self) -> dict[str, list[int]]:
        """End every stream cleanly; returns how many events were sent under each name, by each of its streams."""
        self.pace(0)
        sent = {name: [stream.sent for stream in streams] for name, streams in self.streams.items()}
        for streams in self.streams.values():
            for stream in streams:
                stream.connection.stream = None
                stream.connection.write(STREAM_END)
        self.streams = {}
        return sent

    def gone(self, stream: Stream) -> None:
        streams = self.streams.get(stream.name, [])
        if stream in streams:
            streams.remove(stream)
        if not streams:
            self.streams.pop(stream.name, None)
        for slot in self._slots:
            if stream in slot:
                slot.remove(stream)

    def _tick(self) -> None:
        self._slot = (self._slot + 1) % len(self._slots)
        for stream in self._slots[self._slot]:
            stream.release()


class Stream:
    __slots__ = ("_fleet", "bytes_", "connection", "name", "sent")

    def __init__(self, fleet: Fleet, connection: Connection, name: str) -> None:
        self._fleet = fleet
        self.connection = connection
        self.name = name
        self.bytes_ = chunk(event(name))
        self.sent = 0

    def release(self) -> None:
        """Send one event."""
        self.sent += 1
        self._fleet.events_sent += 1
        self.connection.write(self.bytes_)


class Connection(Endpoint):
    """One HTTP/1.1 connection from a router."""

    __slots__ = ("_buffer", "_fleet", "_pages", "_take", "handshake", "stream")

    def __init__(self, loop: Loop, sock: socket.socket | ssl.SSLSocket, fleet: Fleet, pages: Pages) -> None:
        super().__init__(loop, sock)
        self._buffer = b""
        self._fleet = fleet
        self._pages = pages
        self._take: Callable[[bytes], bytes] = self._serve  # What came; returns what has to wait for more.
        self.stream: Stream | None = None
        self.handshake = isinstance(sock, ssl.SSLSocket)

    def on_event(self, mask: int) -> None:
        if self.handshake and not self._shake():
            return
        if mask & OUT and self.pending:
            self.flush()
        while not self.closed:
            try:
                data = self.receive(RECEIVE_BYTES_MAX)
            except (BlockingIOError, ssl.SSLWantReadError):
                return
            except OSError:
                data = b""
            if not data:
                self.close()
                return
            self._buffer = self._take(self._buffer + data if self._buffer else data)
            if not isinstance(self.sock, ssl.SSLSocket):
                return  # Level-triggered: what is left raises the next event. TLS may hold records inside.

    def close(self) -> None:
        super().close()
        stream, self.stream = self.stream, None
        if stream is not None:
            self._fleet.gone(stream)

    def _shake(self) -> bool:
        assert isinstance(self.sock, ssl.SSLSocket)
        try:
            self.sock.do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return False
        except OSError:
            self.close()
            return False
        self.handshake = False
        if self.sock.selected_alpn_protocol() == "h2":
            assert self._pages.http2 is not None, "offered, and nobody here speaks it"
            self._take = self._pages.http2(self)
        return True

    def _serve(self, data: bytes) -> bytes:
        while data:
            head_end = data.find(b"\r\n\r\n") + 4
            if head_end < 4:
                return data
            head = data[:head_end].lower()
            end = head_end
            at = head.find(b"\r\ncontent-length:")
            if at >= 0:
                end += int(head[at + 17 : head.find(b"\r\n", at + 17)])
            elif b"\r\ntransfer-encoding:" in head:
                last = data.find(b"\r\n0\r\n\r\n", head_end - 2)
                if last < 0:
                    return data
                end = last + 7
            if len(data) < end:
                return data
            self._answer(data, head, end)
            data = data[end:]
        return data

    def _answer(self, data: bytes, head: bytes, end: int) -> None:
        if not head.startswith(b"post /v1/c"):
            self._pages.answer(self, data[: data.find(b"\r\n")])
            return
        self._fleet.requests += 1
        if data.find(STREAM_FLAG, 0, end) < 0:
            self.write(self._pages.unary_response)
            return
        at = data.find(STREAM_ID_KEY) + len(STREAM_ID_KEY)
        self.stream = Stream(self._fleet, self, data[at : data.find(b'"', at)].decode())
        self.write(self._pages.stream_head)
        self._fleet.opened(self.stream)


class Pages:
    """What one backend answers: to inference, and to what routers ask about the backend itself."""

    def __init__(self, metrics_text: bytes, response_fields: bytes = b"") -> None:
        """`response_fields` are header lines, each with its CRLF, for every inference response."""
        self.unary_response = UNARY_RESPONSE.replace(b"\r\n", b"\r\n" + response_fields, 1)
        self.stream_head = STREAM_HEAD.replace(b"\r\n", b"\r\n" + response_fields, 1)
        # For connections that negotiate HTTP/2: makes what takes their bytes.
        self.http2: Callable[[Connection], Callable[[bytes], bytes]] | None = None
        self._pages: dict[bytes, bytes] = {}
        self.add(b"/health", b"text/plain", b"")
        self.add(b"/ping", b"text/plain", b"")
        self.add(b"/v1/models", b"application/json", MODELS_BODY)
        self.add(b"/version", b"application/json", b'{"version":"0.32.0"}')
        self.add(b"/load", b"application/json", b'{"server_load":0}')
        self.add(b"/get_load", b"application/json", b'{"load":0}')
        self.add(b"/metrics", b"text/plain; version=0.0.4; charset=utf-8", metrics_text)
        # Where spans are exported to: a collector that takes everything.
        self.add(b"/v1/traces", b"application/x-protobuf", b"")

    def add(self, path: bytes, content_type: bytes, body: bytes, status: bytes = b"200 OK") -> None:
        self._pages[path] = b"HTTP/1.1 %b\r\ncontent-type: %b\r\ncontent-length: %d\r\n\r\n%b" % (
            status,
            content_type,
            len(body),
            body,
        )

    def answer(self, connection: Connection, request_line: bytes) -> None:
        _, target, _ = request_line.split(b" ", 2)
        path = target.partition(b"?")[0]
        connection.write(self._pages.get(path, NOT_FOUND))


class Listener:
    """Accept for one backend; `tls` makes it a mesh port."""

    def __init__(self, loop: Loop, fleet: Fleet, pages: Pages, tls: ssl.SSLContext | None = None) -> None:
        self._loop = loop
        self._fleet = fleet
        self._pages = pages
        self._tls = tls
        self._sock = socket.socket()
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._sock.bind(("127.0.0.1", 0))
        self._sock.listen(BACKLOG_LEN)
        self._sock.setblocking(False)
        self.port: int = self._sock.getsockname()[1]
        loop.add(self._sock.fileno(), self._on_event, self.close)

    def close(self) -> None:
        self._loop.remove(self._sock.fileno())
        self._sock.close()

    def _on_event(self, mask: int) -> None:
        while True:
            try:
                sock: socket.socket | ssl.SSLSocket = self._sock.accept()[0]
            except BlockingIOError:
                return
            if self._tls is not None:
                sock.setblocking(False)
                sock = self._tls.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
            Connection(self._loop, sock, self._fleet, self._pages)
