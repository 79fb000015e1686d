"""A WebSocket on the socket of an HTTP/1.1 connection, which hands it over after its 101 (RFC 6455 section 4.2.2).

Not here: what is said on it (`socket.WebSocket`). This is how its frames come and go, and how its TCP connection ends:
the server closes first (section 7.1.1), and reads on for a moment, so that its close frame is not lost to a reset.

Duties of the caller: `check_upgrade` has been asked; the connection's task runs `serve` of its successor.
"""

from __future__ import annotations

import math
import socket
from collections import deque
from collections.abc import Callable
from typing import Final, cast

import outcome
import trio

from infermesh.net.asker import SlowCall
from infermesh.net.connection import Connection, ConnectionLost
from infermesh.net.http1 import ServerConnection
from infermesh.net.reactor import HALF_CLOSED, READ
from infermesh.net.websocket.socket import Pausable, WebSocket, WebSocketConfig, WebSocketReader
from wire.http1 import encode_response_head
from wire.websocket import DeflateTerms, Opening, accept_fields, agree

_LINGER_S: Final = 2.0
_LINGER_BYTES_MAX: Final = 1 << 20


class WebSocketConnection(Connection):
    """The transport of one WebSocket."""

    __slots__ = ("_calls", "_count_fault", "_lingering", "_scope", "_send_timeout_s", "_sent_mark", "socket")
    watch = READ | HALF_CLOSED

    def __init__(
        self,
        predecessor: Connection,
        config: WebSocketConfig,
        *,
        deflate: DeflateTerms | None,
        subprotocol: bytes | None,
        count_fault: Callable[[str], None],
    ) -> None:
        self._calls: deque[SlowCall] = deque()
        self._count_fault = count_fault
        self._lingering = False
        self._scope = trio.CancelScope()
        self._send_timeout_s = config.send_timeout_s
        self._sent_mark = -1
        super().__init__(predecessor.sock, predecessor.reactor, predecessor.timers, predecessor=predecessor)
        self.socket = WebSocket(self, config, deflate=deflate, subprotocol=subprotocol)
        if self.backlog_len:
            self.on_backlog()

    # --- the task ---

    async def serve(self) -> None:
        """Run what `hand_over` gives, until the connection is closed. Raises ConnectionLost then."""
        with self._scope:
            while not self.closed:
                while self._calls:
                    await self._calls.popleft()()
                if not self.closed:
                    await self.park()
        raise ConnectionLost("closed")

    def hand_over(self, call: SlowCall) -> None:
        self._calls.append(call)
        self.wake(outcome.Value(None))

    # --- as the transport of a WebSocket ---

    def send(self, data: bytes, source: Pausable | None = None) -> None:
        if data:
            # `write` wants a connection and asks no more of it than to pause and to resume.
            self.write(data, cast("Connection | None", source))

    def pause_reading(self) -> None:
        self.pause()

    def resume_reading(self) -> None:
        self.resume()

    def end(self) -> None:
        """Let the peer read our last words before the socket goes."""
        if self.closed or self._lingering:
            return
        self._lingering = True
        self.bytes_in = 0
        self.resume()
        if not self.backlog_len:
            self._say_goodbye()

    def count_fault(self, reason: str) -> None:
        self._count_fault(reason)

    # --- from the reactor ---

    def on_bytes(self, data: bytes) -> None:
        if not self._lingering:
            self.socket.receive(data)
        elif self.bytes_in > _LINGER_BYTES_MAX:
            self.abort()

    def on_eof(self) -> None:
        if self._lingering:
            self.abort()
        else:
            self.lose("closed by the client without a close frame")

    def on_lost(self, error: ConnectionLost) -> None:
        self._scope.cancel()

    def abort(self, error: ConnectionLost | None = None) -> None:
        if self.closed:
            return
        super().abort(error)
        self._calls.clear()
        self._scope.cancel()
        try:
            self.socket.on_gone("the connection broke" if error is None else str(error))
        except Exception as defect:  # noqa: BLE001 - raised inside trio's own cancellation it ends the process.
            self.reactor.report(defect)

    def on_backlog(self) -> None:
        self._sent_mark = self.bytes_out
        self.timers.arm(self, self.timers.now() + self._send_timeout_s)

    def on_flushed(self) -> None:
        if self._lingering:
            self._say_goodbye()
        else:
            self.deadline = math.inf
            self.socket.on_flushed()

    def on_deadline(self, now: float) -> None:
        if not self.backlog_len:
            if self._lingering:
                self.abort()
        elif self.bytes_out == self._sent_mark:
            self._count_fault("send_timed_out")
            self.lose(f"took no output for {self._send_timeout_s} s (send_timeout_s)")
        else:
            self.on_backlog()

    def _say_goodbye(self) -> None:
        self.timers.arm(self, self.timers.now() + _LINGER_S)
        try:
            if self.tls is not None and self.tls.ready:
                self._write_raw(self.tls.close_notify())
            if not self.backlog_len:
                self.sock.shutdown(socket.SHUT_WR)
        except OSError:
            self.abort()  # The peer went first.


def open_websocket(
    connection: ServerConnection,
    opening: Opening,
    config: WebSocketConfig,
    *,
    reader: Callable[[WebSocket], WebSocketReader],
    subprotocol: bytes | None = None,
    count_fault: Callable[[str], None],
) -> WebSocket:
    """Answer 101 and make a WebSocket of the connection. May have read, and ended, it before it returns."""
    deflate = agree(opening.offers, config.deflate) if config.deflate is not None else None
    fields = accept_fields(opening, subprotocol=subprotocol, deflate=deflate)
    connection.write(encode_response_head(101, b"Switching Protocols", fields))
    opened: list[WebSocketConnection] = []

    def make(old: ServerConnection, rest: bytes) -> WebSocketConnection:
        new = WebSocketConnection(old, config, deflate=deflate, subprotocol=subprotocol, count_fault=count_fault)
        opened.append(new)
        new.socket.begin(reader(new.socket))
        if rest:
            new.on_bytes(rest)
        return new

    connection.switch_to(make)
    return opened[0].socket
