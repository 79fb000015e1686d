"""One exchange over an HTTP/2 connection: a request out, its answer told to a sink by plain calls of the reactor.

To whoever relays it is what net/http1/client.UpstreamConnection is: `hold` until the body begins, `read_body`,
`pause` and `resume`, `detach` without a further word, `lose` with one. Pausing withholds credit, so that the peer stops
at its window; what was on its way still comes.

Duties of the sink: inside `on_head` call `read_body`, `hold` or `detach`; the same in `on_first_bytes`; never block.
Duties of whoever got the stream from a pool: `open` it, or `release` it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from infermesh.net.connection import ConnectionLost
from infermesh.net.http1.client import ExchangeTally
from infermesh.net.http2.heads import response_head
from infermesh.net.http2.stream import Http2Stream
from wire.http1 import Field, ResponseHead
from wire.http2.events import DataReceived, HeadersReceived, StreamReset
from wire.http2.frames import ErrorCode

if TYPE_CHECKING:
    from infermesh.net.http2.client import Http2ClientConnection


class StreamSink(Protocol):
    def on_interim(self, up: Http2UpstreamStream, head: ResponseHead) -> None:
        """A 1xx head came; the final one follows."""

    def on_head(self, up: Http2UpstreamStream, head: ResponseHead) -> None: ...

    def on_first_bytes(self, up: Http2UpstreamStream) -> None:
        """The body, or the end, came after `hold`; now choose, as in `on_head`."""

    def on_body(self, up: Http2UpstreamStream, payload: bytes) -> None:
        """A piece of body after `read_body`; consumed with this call, unless the stream is paused then."""

    def on_doubt(self, up: Http2UpstreamStream, why: str) -> None:
        """The peer is held for dead; the connection says nothing of it yet."""

    def on_end(self, up: Http2UpstreamStream) -> None:
        """The response is whole, `up.trailers` included."""

    def on_failed(self, up: Http2UpstreamStream, error: ConnectionLost) -> None:
        """The stream was reset or its connection broke. `up.unprocessed`: the peer has done nothing with it."""


class Http2UpstreamStream(Http2Stream):
    __slots__ = (
        "_buffer",
        "_buffer_flow",
        "_heard_mark",
        "_holding",
        "_method",
        "_reading",
        "_sink",
        "bytes_in",
        "connection",
        "final_status",
        "head_only",
        "received_end",
        "reset_code",
        "reused",
        "tally",
        "trailers",
        "unprocessed",
    )

    def __init__(self, connection: Http2ClientConnection) -> None:
        super().__init__(connection, 0)
        self.connection = connection
        self._sink: StreamSink | None = None
        self._method = b""
        self._holding = False
        self._reading = False
        self.received_end = False  # The peer has said all.
        self.head_only = False  # All of it with its head.
        self._buffer = b""
        self._buffer_flow = 0
        self._heard_mark = 0
        self.bytes_in = 0  # Roughly: of a head its fields are counted.
        self.tally = ExchangeTally()  # Without events, which gRPC's answers do not have.
        self.trailers: list[Field] = []
        self.final_status = 0  # The head's, unless whoever knows what the trailers mean says otherwise.
        self.reset_code = -1  # Of the RST_STREAM by which the peer ended it.
        self.unprocessed = False  # It failed, and is safe to be sent again: the peer has done nothing with it.
        self.reused = False  # Not the connection's first: then its breaking may be no more than staleness.

    # --- asking ---

    def open(self, fields: list[Field], sink: StreamSink, *, data: bytes = b"", end: bool = True) -> None:
        """Send the head, pseudo fields first, and what there is of the body. A connection that turns out broken or
        full tells the sink, now or later."""
        assert self.stream_id == 0, "the stream is open already"
        assert not self.closed
        self._sink = sink
        self._method = dict(fields)[b":method"]
        refusal = self.connection.admit(self)
        if refusal:
            self.unprocessed = self.reused = True
            self._fail(ConnectionLost(refusal))
            return
        self._heard_mark = self.connection.bytes_in
        self.send_head(fields, end=end and not data)
        if data:
            self.send_data(data, end=end)

    def release(self) -> None:
        """It is not used after all."""
        assert self.stream_id == 0, "an open stream is detached, not released"
        if not self.closed:
            self._end()

    def hold(self) -> None:
        """Keep the head to ourselves until the body begins: `on_first_bytes` tells."""
        self._holding = True

    def read_body(self) -> None:
        """Give the body to `on_body`."""
        self._reading = True
        data, self._buffer = self._buffer, b""
        flow, self._buffer_flow = self._buffer_flow, 0
        self._pass(data, flow)

    @property
    def has_body_bytes(self) -> bool:
        """Whether bytes of the body came with the head. The head comes alone here; what follows comes right after."""
        return bool(self._buffer)

    def detach(self) -> None:
        """Reset without a word to the sink: the exchange is abandoned (a lost race, a client gone)."""
        self._sink = None
        if not self.closed:
            self._cancel(ErrorCode.CANCEL)

    def lose(self, why: str) -> None:
        """Reset because of the peer, and tell the sink."""
        if not self.closed:
            self._cancel(ErrorCode.CANCEL)
            self._tell_failed(ConnectionLost(why))

    def doubt(self, why: str) -> None:
        if self._sink is not None:
            self._sink.on_doubt(self, why)

    # --- what comes in: plain calls of the connection ---

    def on_interim(self, fields: list[Field]) -> None:
        assert self._sink is not None
        self._sink.on_interim(self, response_head(fields, method=self._method, end_stream=False))

    def on_head(self, event: HeadersReceived) -> None:
        head = response_head(event.fields, method=self._method, end_stream=event.end_stream)
        self.received_end = self.head_only = event.end_stream
        self.final_status = head.status
        self.bytes_in += len(event.fields)
        self.tally.bytes_in += len(event.fields)
        assert self._sink is not None
        self._sink.on_head(self, head)
        if self.received_end and self._holding:
            self._begin_held()

    def on_data(self, event: DataReceived) -> None:
        data, flow_bytes = event.data, event.flow_bytes
        self._owed += flow_bytes
        self.received_end = event.end_stream
        self.bytes_in += len(data)
        self.tally.bytes_in += len(data)
        if self._reading:
            self._pass(data, flow_bytes)
            return
        assert self._holding, "a sink must say where the body goes"
        if data or event.end_stream:
            self._buffer = data
            self._buffer_flow = event.flow_bytes
            self._begin_held()
        else:
            self.credit(event.flow_bytes)

    def on_trailers(self, fields: list[Field]) -> None:
        self.trailers = fields
        self.received_end = True
        if self._reading:
            self._complete()
        else:
            self._begin_held()

    def on_reset(self, event: StreamReset) -> None:
        """Reset by the peer, or by the machine for a fault of the peer; or its connection takes it no more."""
        self.unprocessed = event.code == ErrorCode.REFUSED_STREAM and event.remote
        self.reset_code = event.code
        self.reused = self.unprocessed  # A peer that answers by a reset is not stale.
        by = "by the peer" if event.remote else "here, for a fault of the peer"
        self._fail(ConnectionLost(f"stream reset {by}: {event.why} ({_name_of(event.code)})"))

    def on_lost(self, error: ConnectionLost) -> None:
        """The connection is gone."""
        if not self.closed:
            # A connection by which anything came since was alive when this began.
            self.reused = self.reused and self.connection.bytes_in == self._heard_mark
            self._fail(error)

    def crashed(self, error: Exception) -> None:
        """A defect in the sink: this exchange ends, for whoever waits for it as well."""
        self.lose("a defect on this node, see connection_crashed in its log")
        self.connection.reactor.report(error)

    def _begin_held(self) -> None:
        self._holding = False
        assert self._sink is not None
        self._sink.on_first_bytes(self)

    def _pass(self, data: bytes, flow_bytes: int) -> None:
        if data:
            assert self._sink is not None
            self._sink.on_body(self, data)
        if self.received_end and not self.closed:
            self._complete()
        elif flow_bytes:
            self.credit(flow_bytes)

    # --- endings ---

    def _complete(self) -> None:
        if self._sent_end:
            self._end()
        else:  # The answer came before the request was whole; nobody wants the rest of it.
            self._cancel(ErrorCode.NO_ERROR)
        sink, self._sink = self._sink, None
        assert sink is not None
        sink.on_end(self)

    def _fail(self, error: ConnectionLost) -> None:
        self._end()
        self._tell_failed(error)

    def _tell_failed(self, error: ConnectionLost) -> None:
        sink, self._sink = self._sink, None
        if sink is None:
            return
        try:
            sink.on_failed(self, error)
        except Exception as further:  # noqa: BLE001 - one exchange's defect; the connection's others live on.
            self.connection.reactor.report(further)

    def _cancel(self, code: ErrorCode) -> None:
        connection = self.connection
        if self.stream_id and not connection.closed:
            connection.machine.reset(self.stream_id, code)
        self._end()
        connection.flush_soon()

    def _end(self) -> None:
        self._close()
        self._buffer = b""
        self.connection.forget(self)


def _name_of(code: int) -> str:
    try:
        return ErrorCode(code).name
    except ValueError:
        return f"error code {code:#x}"
