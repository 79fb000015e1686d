"""The fake gRPC backend: unary answers and token streams at a few microseconds each, as a process on its own core.

`python -m tests.bench.grpc.backend CORE`. Prints its two ports: gRPC (HTTP/2, plaintext, prior knowledge) and HTTP/1.1,
where every GET is answered with 200 so that a KServe adapter finds its model ready. Then each line on stdin is a pace:
messages a second per stream, or 0 for as fast as windows allow; it is answered with what was sent so far. Not a server
for anything else: requests are told apart by a mark in their message, errors of the peer end the connection.
"""

from __future__ import annotations

import gc
import json
import os
import socket
import sys
from collections import deque
from collections.abc import Callable

from tests.bench.dataplane.loop import OUT, RECEIVE_BYTES_MAX, Endpoint, Loop, Ticker
from tests.bench.grpc import frames

BACKLOG_LEN = 1024
CREDIT_AT_BYTES = 1 << 20
_DATA_UNARY = len(frames.UNARY_MESSAGE)
_DATA_TOKEN = len(frames.TOKEN_MESSAGE)
_UNARY_HEAD = frames.frame(frames.DATA, 0, 0, frames.UNARY_MESSAGE)[:5]
_TOKEN_HEAD = frames.frame(frames.DATA, 0, 0, frames.TOKEN_MESSAGE)[:5]
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"


class Fleet:
    """All streams of all connections, and the clock that feeds them."""

    def __init__(self, loop: Loop) -> None:
        self.calls = 0  # Ended by their trailers.
        self.messages = 0  # In streams.
        self.paced = False
        self._loop = loop
        self._ticker: Ticker | None = None
        self._slots: list[list[TokenStream]] = []
        self._slot = 0
        self._next_slot = 0

    def pace(self, per_s: float) -> None:
        if self._ticker is not None:
            self._ticker.close()
            self._ticker = None
        self.paced = bool(per_s)
        self._slots = [[] for _ in range(round(1000 / per_s))] if per_s else []
        self._slot = self._next_slot = 0
        if per_s:
            self._ticker = Ticker(self._loop, 0.001, self._tick)

    def opened(self, stream: TokenStream) -> None:
        if self._slots:
            self._next_slot = (self._next_slot + 1) % len(self._slots)
            self._slots[self._next_slot].append(stream)

    def _tick(self) -> None:
        self._slot = (self._slot + 1) % len(self._slots)
        streams = self._slots[self._slot]
        for stream in streams:
            stream.connection.send_tokens(stream, 1)
        self._slots[self._slot] = [stream for stream in streams if stream.left and not stream.connection.closed]


class TokenStream:
    __slots__ = ("connection", "left", "stream_id", "window")

    def __init__(self, connection: GrpcConnection, stream_id: int, count: int, window: int) -> None:
        self.connection = connection
        self.stream_id = stream_id.to_bytes(4, "big")
        self.left = count
        self.window = window


class GrpcConnection(Endpoint):
    """One HTTP/2 connection of a client or a router."""

    __slots__ = (
        "_buffer",
        "_fleet",
        "_headed",
        "_initial",
        "_open",
        "_output",
        "_preface",
        "_streams",
        "_trailed",
        "_unread",
        "_waiting",
        "_window",
    )

    def __init__(self, loop: Loop, sock: socket.socket, fleet: Fleet) -> None:
        super().__init__(loop, sock)
        self._fleet = fleet
        self._buffer = b""
        self._preface = False
        self._output: list[bytes] = []
        self._window = self._initial = frames.WINDOW_DEFAULT
        self._unread = 0
        self._open: dict[int, bytes] = {}  # Requests of which a part has come.
        self._waiting: deque[int] = deque()  # Unary answers for which the window is too small.
        self._streams: dict[int, TokenStream] = {}
        self._headed = self._trailed = False  # What the peer's dynamic table knows.
        first = frames.settings(initial_window_size=frames.WINDOW_WIDE, max_concurrent_streams=4096)
        self.write(first + frames.window_update(0, frames.WINDOW_WIDE))

    def on_event(self, mask: int) -> None:
        if mask & OUT and self.pending:
            self.flush()
        try:
            data = self.receive(RECEIVE_BYTES_MAX)
        except BlockingIOError:
            data = None
        except OSError:
            data = b""
        if data == b"":
            self.close()
            return
        if data:
            self._buffer = self._serve(self._buffer + data if self._buffer else data)
        if not self._fleet.paced and self._streams and not self.pending:
            for stream in list(self._streams.values()):
                self.send_tokens(stream, stream.left)
        self._write_output()

    def _write_output(self) -> None:
        if self._output and not self.closed:
            output, self._output = self._output, []
            self.write(b"".join(output))

    def _serve(self, data: bytes) -> bytes:
        position = 0
        if not self._preface:
            if len(data) < len(frames.PREFACE):
                return data
            if not data.startswith(frames.PREFACE):
                self.close()
                return b""
            self._preface = True
            position = len(frames.PREFACE)
        total = len(data)
        while total - position >= 9:
            size = data[position] << 16 | data[position + 1] << 8 | data[position + 2]
            end = position + 9 + size
            if end > total:
                break
            kind, flags = data[position + 3], data[position + 4]
            stream_id = int.from_bytes(data[position + 5 : position + 9], "big")
            if kind == frames.DATA:
                self._unread += size
                self._on_data(stream_id, data[position + 9 : end], end_stream=bool(flags & frames.END_STREAM))
            elif kind != frames.HEADERS:
                self._on_control(kind, flags, stream_id, data[position + 9 : end])
            position = end
        if self._unread > CREDIT_AT_BYTES:
            self._output.append(frames.window_update(0, self._unread))
            self._unread = 0
        return data[position:]

    def _on_data(self, stream_id: int, payload: bytes, *, end_stream: bool) -> None:
        if not end_stream:
            self._open[stream_id] = self._open.get(stream_id, b"") + payload
            return
        if self._open:
            payload = self._open.pop(stream_id, b"") + payload
        at = payload.find(frames.STREAM_MARK)
        if at >= 0:
            begin = at + len(frames.STREAM_MARK)
            count = int(payload[begin : payload.index(b":", begin)])
            stream = self._streams[stream_id] = TokenStream(self, stream_id, count, self._initial)
            self._output += (self._head(stream.stream_id),)
            self._fleet.opened(stream)
        elif self._window >= _DATA_UNARY and self._initial >= _DATA_UNARY and not self._waiting:
            self._answer(stream_id)
        else:
            self._waiting.append(stream_id)

    def _answer(self, stream_id: int) -> None:
        self._window -= _DATA_UNARY
        self._fleet.calls += 1
        sid = stream_id.to_bytes(4, "big")
        self._output += (self._head(sid), _UNARY_HEAD, sid, frames.UNARY_MESSAGE, self._trailers(sid))

    def send_tokens(self, stream: TokenStream, count: int) -> None:
        """As many messages as are left, asked for and allowed; the trailers behind the last one."""
        count = min(count, stream.left, self._window // _DATA_TOKEN, stream.window // _DATA_TOKEN)
        if count <= 0 or self.pending:
            return
        stream.left -= count
        stream.window -= count * _DATA_TOKEN
        self._window -= count * _DATA_TOKEN
        self._fleet.messages += count
        self._output.append((_TOKEN_HEAD + stream.stream_id + frames.TOKEN_MESSAGE) * count)
        if not stream.left:
            self._fleet.calls += 1
            self._output.append(self._trailers(stream.stream_id))
            del self._streams[int.from_bytes(stream.stream_id, "big")]
        if self._fleet.paced:
            self._write_output()

    def _head(self, sid: bytes) -> bytes:
        block = frames.HEAD_AFTER_TRAILERS if self._trailed else frames.HEAD_BEFORE_TRAILERS
        if not self._headed:
            self._headed, block = True, frames.HEAD_FIRST
        return bytes((0, 0, len(block), frames.HEADERS, frames.END_HEADERS)) + sid + block

    def _trailers(self, sid: bytes) -> bytes:
        block = frames.TRAILERS
        if not self._trailed:
            self._trailed, block = True, frames.TRAILERS_FIRST
        return bytes((0, 0, len(block), frames.HEADERS, frames.END_HEADERS | frames.END_STREAM)) + sid + block

    def _on_control(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        if kind == frames.WINDOW_UPDATE:
            size = int.from_bytes(payload, "big")
            if stream_id == 0:
                self._window += size
                while self._waiting and self._window >= _DATA_UNARY:
                    self._answer(self._waiting.popleft())
            elif stream_id in self._streams:
                self._streams[stream_id].window += size
        elif kind == frames.SETTINGS and not flags & frames.ACK:
            for at in range(0, len(payload), 6):
                if int.from_bytes(payload[at : at + 2], "big") == frames.INITIAL_WINDOW_SIZE:
                    self._initial = int.from_bytes(payload[at + 2 : at + 6], "big")
            self._output.append(frames.frame(frames.SETTINGS, frames.ACK, 0))
        elif kind == frames.PING and not flags & frames.ACK:
            self._output.append(frames.frame(frames.PING, frames.ACK, 0, payload))
        elif kind == frames.RST_STREAM:
            self._open.pop(stream_id, None)
            stream = self._streams.pop(stream_id, None)
            if stream is not None:
                stream.left = 0


class ReadyPage(Endpoint):
    """HTTP/1.1: 200 to whatever is asked, one request at a time."""

    def on_event(self, mask: int) -> None:
        try:
            data = self.receive(RECEIVE_BYTES_MAX)
        except OSError:
            data = b""
        if not data:
            self.close()
        elif data.endswith(b"\r\n\r\n"):
            self.write(OK)


def listen(loop: Loop, serve: Callable[[socket.socket], object]) -> int:
    """Accept until the loop is closed; returns the port."""
    sock = socket.create_server(("127.0.0.1", 0), backlog=BACKLOG_LEN)
    sock.setblocking(False)

    def accept(mask: int) -> None:
        try:
            serve(sock.accept()[0])
        except BlockingIOError:
            return

    loop.add(sock.fileno(), accept, lambda: loop.remove(sock.fileno()))
    return int(sock.getsockname()[1])


def main() -> None:
    os.sched_setaffinity(0, {int(sys.argv[1])})
    loop = Loop()
    fleet = Fleet(loop)
    grpc_port = listen(loop, lambda sock: GrpcConnection(loop, sock, fleet))
    http_port = listen(loop, lambda sock: ReadyPage(loop, sock))
    _say({"grpc": grpc_port, "http": http_port})
    gc.freeze()
    lines: list[bytes] = []

    def on_input(mask: int) -> None:
        data = os.read(0, 65_536)
        lines.extend(data.splitlines() if data else [b""])

    loop.add(0, on_input, lambda: loop.remove(0))
    while True:
        loop.run_until(lambda: bool(lines), 3600)
        line = lines.pop(0) if lines else b""
        if not line:
            return  # The other end is gone: so are we.
        if line != b"counts":
            fleet.pace(float(line))
        _say({"calls": fleet.calls, "messages": fleet.messages})


def _say(document: object) -> None:
    sys.stdout.write(json.dumps(document) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
