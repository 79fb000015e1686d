"""A WebSocket on one stream of an HTTP/2 connection (RFC 8441): its frames are the stream's DATA.

An orderly end is END_STREAM on both sides after the closing handshake; anything else is RST_STREAM (section 5). Not
here: what is said on it (`socket.WebSocket`).

Duties of the caller: the connection has announced SETTINGS_ENABLE_CONNECT_PROTOCOL, `check_connect` has been asked, and
what `open_websocket_stream` returns is what `StreamService.open_stream` returns.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

from infermesh.net.asker import SlowCall
from infermesh.net.http2 import Http2ServerStream, StreamReader
from infermesh.net.timers import Entry, Timers
from infermesh.net.websocket.socket import Pausable, WebSocket, WebSocketConfig, WebSocketReader
from wire.http1 import Field
from wire.http2.frames import ErrorCode
from wire.websocket import DeflateTerms, Opening, accept_fields, agree

_LINGER_S: Final = 2.0  # For the peer's END_STREAM after ours.


class WebSocketStream:
    """The transport of one WebSocket, and the reader of its stream."""

    __slots__ = ("_count_fault", "_ending", "_paused", "_stream", "_withheld", "deadline", "socket", "timer", "timers")

    def __init__(
        self,
        stream: Http2ServerStream,
        config: WebSocketConfig,
        *,
        deflate: DeflateTerms | None,
        subprotocol: bytes | None,
        count_fault: Callable[[str], None],
    ) -> None:
        self._stream = stream
        self._count_fault = count_fault
        self._ending = False
        self._paused = False
        self._withheld = 0  # Bytes of the peer's window that it gets back when we read on.
        self.timers: Timers = stream.connection.timers
        self.deadline = math.inf
        self.timer: Entry | None = None
        self.socket = WebSocket(self, config, deflate=deflate, subprotocol=subprotocol)

    # --- as the transport of a WebSocket ---

    @property
    def backlog_len(self) -> int:
        return self._stream.queued_bytes

    def send(self, data: bytes, source: Pausable | None = None) -> None:
        if data:
            self._stream.send_data(data, source=source)

    def pause_reading(self) -> None:
        self._paused = True

    def resume_reading(self) -> None:
        self._paused = False
        withheld, self._withheld = self._withheld, 0
        if withheld:
            self._stream.credit(withheld)

    def hand_over(self, call: SlowCall) -> None:
        self._stream.hand_over(call)

    def end(self) -> None:
        """END_STREAM after our last words; then the peer's is awaited for a moment, so that it reads them."""
        stream = self._stream
        if stream.closed or self._ending:
            return
        self._ending = True
        self.resume_reading()
        stream.send_data(b"", end=True)
        if stream.received_end:
            stream.finish()
        else:
            self.timers.arm(self, self.timers.now() + _LINGER_S)

    def lose(self, why: str) -> None:
        self._stream.reset(ErrorCode.CANCEL)

    def count_fault(self, reason: str) -> None:
        self._count_fault(reason)

    # --- from the stream ---

    def on_data(self, data: bytes, flow_bytes: int, *, end: bool) -> None:
        if data and not self._ending:
            self.socket.receive(data)
        if self._paused:
            self._withheld += flow_bytes
        else:
            self._stream.credit(flow_bytes)
        if end and not self._stream.closed:
            self._on_end()

    def on_trailers(self, fields: list[Field]) -> None:
        self._on_end()

    def on_drained(self) -> None:
        self.socket.on_flushed()

    def on_connection_lost(self) -> None:
        """The stream is gone: as its `work` we hear of it."""
        self.timers.disarm(self)
        self.socket.on_gone("the stream was reset, or its connection broke")

    def on_deadline(self, now: float) -> None:
        self._stream.finish()

    def _on_end(self) -> None:
        if self._ending:
            self.timers.disarm(self)
            self._stream.finish()
        else:
            self.lose("the client ended the stream without a close frame")


class _Refused:
    """The reader of a stream that was answered at once: nothing follows."""

    def on_data(self, data: bytes, flow_bytes: int, *, end: bool) -> None:
        pass  # The stream is closed, which has settled its accounts.

    def on_trailers(self, fields: list[Field]) -> None:
        pass

    def on_drained(self) -> None:
        pass


REFUSED: Final[StreamReader] = _Refused()
"""What `open_stream` returns after it has answered a CONNECT with a refusal: its body, which never ends, is not
collected."""


def open_websocket_stream(
    stream: Http2ServerStream,
    opening: Opening,
    config: WebSocketConfig,
    *,
    reader: Callable[[WebSocket], WebSocketReader],
    subprotocol: bytes | None = None,
    count_fault: Callable[[str], None],
) -> WebSocketStream:
    """Answer 200 and make a WebSocket of the stream."""
    deflate = agree(opening.offers, config.deflate) if config.deflate is not None else None
    fields = accept_fields(opening, subprotocol=subprotocol, deflate=deflate)
    carried = WebSocketStream(stream, config, deflate=deflate, subprotocol=subprotocol, count_fault=count_fault)
    stream.work = carried
    stream.send_head([(b":status", b"200"), *fields])
    carried.socket.begin(reader(carried.socket))
    return carried
