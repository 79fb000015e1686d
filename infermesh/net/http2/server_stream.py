"""One request of a client over HTTP/2 and the way back to it: an asker (infermesh.net.asker), by plain calls.

The body is collected and then answered as HTTP/1.1's is, or goes piece by piece to the `StreamReader` that the
service gave at the head. What waits runs in a task of its own, begun by `hand_over` and cancelled with the stream; to
cancel that task is to reset the stream. A stream is gone when its client resets it, when its connection ends, when it
is lost here, or when both sides have said their last: its `work` hears of it once, and never after `finish`.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, Protocol

import trio

from infermesh.net.asker import Request, SlowCall, Work
from infermesh.net.connection import ConnectionLost
from infermesh.net.http1.server import Refusal
from infermesh.net.http2.stream import Http2Stream, Source
from infermesh.net.timers import Entry
from wire.http1 import Field, RequestHead
from wire.http2.events import DataReceived
from wire.http2.frames import ErrorCode

if TYPE_CHECKING:
    from infermesh.net.http2.server import Http2ServerConnection

_STATUS: Final = {status: (b":status", b"%d" % status) for status in range(100, 600)}
_CONTINUE: Final = [_STATUS[100]]


class StreamReader(Protocol):
    """Who takes the body of a request as it comes. Told of its end at most once; a lost stream tells `work` instead."""

    def on_data(self, data: bytes, flow_bytes: int, *, end: bool) -> None:
        """Give `flow_bytes` to the stream's `credit` once the data is consumed."""

    def on_trailers(self, fields: list[Field]) -> None:
        """The end of the request."""

    def on_drained(self) -> None:
        """Our output, of which too much was queued, is low again."""


class Http2ServerStream(Http2Stream):
    __slots__ = (
        "_body",
        "_body_since",
        "_calls",
        "_first",
        "_held_bytes",
        "_reader",
        "_running",
        "connection",
        "deadline",
        "head",
        "http_minor",
        "keep_alive",
        "protocol",
        "received_end",
        "scope",
        "timer",
        "work",
    )

    def __init__(self, connection: Http2ServerConnection, stream_id: int, head: RequestHead, protocol: bytes) -> None:
        super().__init__(connection, stream_id)
        self.connection = connection
        self.head = head
        self.protocol = protocol  # Of an extended CONNECT (RFC 8441), else empty.
        self.work: Work | None = None
        self.keep_alive = True
        self.http_minor = 1
        self.received_end = False
        self._reader: StreamReader | None = None
        self._first = b""
        self._body: bytearray | None = None  # From the second piece on.
        self._body_since = 0.0
        self._held_bytes = 0
        self._calls: deque[SlowCall] = deque()
        self._running = False
        self.scope: trio.CancelScope | None = None
        self.deadline = math.inf
        self.timer: Entry | None = None

    # --- answering ---

    def respond(self, status: int, fields: Sequence[Field], body: bytes = b"", *, method: bytes = b"GET") -> None:
        """A whole response with its length; then `finish`."""
        whole = [_STATUS[status], *fields]
        if status not in (204, 304):  # RFC 9110 section 8.6.
            whole.append((b"content-length", b"%d" % len(body)))
        if method == b"HEAD" or not body:
            self.send_head(whole, end=True)
        else:
            self.send_head(whole)
            self.send_data(body, end=True)
        self.finish()

    def write_from(self, data: bytes, source: Source) -> None:
        """`send_data` for a relay: `source` is paused while the client takes no more."""
        self.send_data(data, source=source)

    def finish(self) -> None:
        """The response is complete. An end that was not sent yet follows what is queued."""
        self.work = None
        if self.closed:
            return
        if not self._sent_end:
            self.send_data(b"", end=True)
        if not self.closed:
            self.connection.finished(self)
            self._end()

    def break_off(self, last_words: bytes) -> None:
        """End it without a clean end, a moment after the client could read `last_words`."""
        self.work = None
        self.send_data(last_words)
        if not self.closed:
            self.connection.broken_off(self)
            self._end()

    def lose(self, why: str) -> None:
        """End it without a clean end."""
        self.reset(ErrorCode.INTERNAL_ERROR)

    def reset(self, code: int) -> None:
        """RST_STREAM; `work` is told."""
        if not self.closed:
            self.connection.machine.reset(self.stream_id, code)
            self.connection.flush_soon()
            self.on_gone()

    # --- what waits ---

    def hand_over(self, call: SlowCall) -> None:
        """Have a task of this stream run `call`: something must be waited for. Calls of one stream do not overlap."""
        if self.closed:
            return
        self._calls.append(call)
        if not self._running:
            self._running = True
            self.scope = trio.CancelScope()
            self.connection.run_calls_of(self)

    async def run_calls(self) -> None:
        """In a task of the connection's nursery. What a call raises ends this stream only."""
        scope = self.scope
        assert scope is not None
        try:
            with scope:
                while self._calls:
                    await self._calls.popleft()()
        except ConnectionLost:
            self.reset(ErrorCode.CANCEL)  # Somebody it depends on has gone, unless it was its own client.
        except Exception as error:  # noqa: BLE001 - one stream's defect; the connection lives on.
            # Around the scope: what failed in a nursery while that was cancelled comes in a group with Cancelled.
            self.crashed(error)
        self._running = False
        if scope.cancelled_caught:
            self.reset(ErrorCode.CANCEL)

    def crashed(self, error: Exception) -> None:
        """A defect in what serves this stream."""
        self.lose("a defect on this node, see connection_crashed in its log")
        self.connection.reactor.report(error)

    # --- what comes in: plain calls of the connection ---

    def begin(self, reader: StreamReader | None, *, end: bool) -> None:
        """The head is there; `end`: nothing follows it."""
        if self.closed:
            return  # Answered at its head.
        self._reader = reader
        if reader is not None:
            if end:
                reader.on_data(b"", 0, end=True)
            return
        head = self.head
        limit = self.connection.limits.body_bytes_max
        if head.method == b"CONNECT":  # What follows would be a tunnel, which has no end to wait for.
            status = 501 if self.protocol else 405
            self.refuse(Refusal(status, "malformed", "CONNECT is not offered here"))
        elif head.expect and head.expect.lower() != b"100-continue":
            self.refuse(
                Refusal(417, "expectation", f"cannot meet the expectation {head.expect[:80].decode('latin-1')!r}")
            )
        elif head.framing > limit:
            self.refuse(Refusal(413, "body_oversized", f"body of {head.framing} bytes; at most {limit} are taken"))
        elif end:
            self._deliver(b"")
        else:
            self._body_since = self.connection.timers.now()
            if head.expect:
                self.send_head(_CONTINUE)

    def begin_whole(self, reader: StreamReader | None, request: Request) -> None:
        """The request came before its stream did, by an upgrade from HTTP/1.1."""
        if self.closed:
            return  # Answered at its head.
        self._reader = reader
        if reader is not None:
            reader.on_data(request.body, 0, end=True)
        elif self.keep(len(request.body)):
            self._deliver(request.body)
        else:
            self.refuse(Refusal(503, "bodies_in_flight", self.connection.limits.bodies.refusal))

    def await_body(self) -> None:
        """The body did not come with its head: its time runs."""
        if self._reader is None and not self.received_end and not self.closed:
            timers = self.connection.timers
            timers.arm(self, self._body_since + self.connection.limits.body_timeout_s)

    def on_data(self, event: DataReceived) -> None:
        self.received_end = event.end_stream
        self._owed += event.flow_bytes
        if self._reader is not None:
            self._reader.on_data(event.data, event.flow_bytes, end=event.end_stream)
            return
        data = event.data
        if not self.keep(len(data)):
            self.refuse(Refusal(503, "bodies_in_flight", self.connection.limits.bodies.refusal))
            return
        if event.end_stream and not self._first:
            self.connection.collected_bytes += len(data)
            self._first = data
        elif data:
            self._collect(data)
        self.credit(event.flow_bytes)
        connection = self.connection
        if self._collected_len > connection.limits.body_bytes_max:
            text = f"body of more than {connection.limits.body_bytes_max} bytes"
            self.refuse(Refusal(413, "body_oversized", text))
        elif connection.collected_bytes > connection.collected_bytes_max:
            text = f"bodies under way on this connection hold more than {connection.collected_bytes_max} bytes"
            self.refuse(Refusal(503, "bodies_in_flight", text))
        elif event.end_stream:
            self._deliver(self._take_body())

    def on_trailers(self, fields: list[Field]) -> None:
        self.received_end = True
        if self._reader is not None:
            self._reader.on_trailers(fields)
        else:
            self._deliver(self._take_body())

    def on_room(self) -> None:
        if self._reader is None:
            return
        try:
            self._reader.on_drained()
        except Exception as error:  # noqa: BLE001 - one stream's defect; the connection lives on.
            self.crashed(error)

    @property
    def _collected_len(self) -> int:
        return len(self._first) if self._body is None else len(self._body)

    def _collect(self, data: bytes) -> None:
        """Pieces are joined as they come: kept one by one, tiny ones take forty times their bytes."""
        self.connection.collected_bytes += len(data)
        if self._body is not None:
            self._body += data
        elif self._first:
            self._body = bytearray(self._first)
            self._body += data
        else:
            self._first = data

    def _take_body(self) -> bytes:
        body = self._first if self._body is None else bytes(self._body)
        self._drop_body()
        return body

    def _drop_body(self) -> None:
        self.connection.collected_bytes -= self._collected_len
        self._first = b""
        self._body = None

    def _deliver(self, body: bytes) -> None:
        connection = self.connection
        if self.timer is not None:
            connection.timers.disarm(self)
        connection.requests += 1
        call = connection.service.answer(self, Request(self.head, body, connection.timers.now()))
        if call is not None:
            self.hand_over(call)

    def refuse(self, refusal: Refusal) -> None:
        """An answer to what never became a request."""
        self.connection.refuse(self, refusal)

    def on_deadline(self, now: float) -> None:
        limits = self.connection.limits
        allowed = self._body_since + limits.body_timeout_s + self._collected_len / limits.body_rate_min
        if now < allowed:
            self.connection.timers.arm(self, allowed)
        else:
            text = "the request's body came too slowly (body_timeout_s)"
            try:
                self.refuse(Refusal(408, "body_timed_out", text))
            except Exception as error:  # noqa: BLE001 - one stream's defect; the connection lives on.
                self.crashed(error)

    # --- ending ---

    def on_gone(self) -> None:
        """Reset, by either side, or lost with its connection: whatever works for it stops."""
        if self.closed:
            return
        self._end()
        self._calls.clear()
        if self.scope is not None:
            self.scope.cancel()
        work, self.work = self.work, None
        if work is not None:
            try:
                work.on_connection_lost()
            except Exception as error:  # noqa: BLE001 - raised inside trio's own cancellation it ends the process.
                self.connection.reactor.report(error)

    def keep(self, size: int) -> bool:
        """Whether so many bytes more of the request may be kept, of all that its process keeps."""
        if not self.connection.limits.bodies.take(size):
            return False
        self._held_bytes += size
        return True

    def let_go(self) -> None:
        """Nothing of the request is kept any more."""
        held, self._held_bytes = self._held_bytes, 0
        self.connection.limits.bodies.give(held)

    def _end(self) -> None:
        self._close()
        self._reader = None
        self._drop_body()
        self.let_go()
        if self.timer is not None:
            self.connection.timers.disarm(self)
        self.connection.forget(self)
