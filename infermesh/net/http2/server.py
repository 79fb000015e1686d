"""The serving side of one HTTP/2 connection: requests in, each a stream, answers out as their windows allow.

Every stream is an asker like an HTTP/1.1 connection (net/http1/server.py): `StreamService.answer` is a plain call
that answers at once, sets `work`, or returns what must be waited for. What waits runs in the nursery of the
connection's one task, each stream's calls in a task of their own. A defect in one stream's service ends that stream;
the connection ends for what its client does to the connection: broken framing, abuse, silence, output not taken.

Duties of the caller: `begin` once TLS is ready (or `begin_upgraded`); one task that runs `serve` under `scope`;
`abort` afterwards. `wind_down` before the process stops: no further streams, those that are open finish.
"""

from __future__ import annotations

import math
import socket
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Final, Protocol

import outcome
import trio

from infermesh.net.asker import Request, SlowCall
from infermesh.net.connection import BACKLOG_HIGH_BYTES, Connection, ConnectionLost
from infermesh.net.http1.server import Refusal, ServerLimits
from infermesh.net.http2.endpoint import EndpointTimes, Http2Endpoint
from infermesh.net.http2.heads import request_head
from infermesh.net.http2.server_stream import Http2ServerStream, StreamReader
from infermesh.net.reactor import HALF_CLOSED, READ, Reactor
from infermesh.net.timers import Entry, Timers
from wire.errors import RemoteProtocolError
from wire.http2.config import Http2Config, Role
from wire.http2.events import (
    ConnectionEnded,
    DataReceived,
    Event,
    HeadersReceived,
    StreamReset,
    TrailersReceived,
)
from wire.http2.frames import ErrorCode
from wire.limits import HTTP1_TARGET_BYTES_MAX

# Together the streams of a connection cannot use up its window: a call that reads slowly holds up no other.
SERVER_CONFIG: Final = Http2Config(
    role=Role.SERVER, streams_max=128, window_bytes=512 << 10, connection_window_bytes=64 << 20
)
LINGER_S: Final = 1.0
_LAST_WORDS_S: Final = 0.1
_UNSENT_HIGH_BYTES: Final = 262_144
# Bodies that are being collected on one connection, in bodies of the largest size.
_BODIES_COLLECTED_MAX: Final = 4
_TEXT: Final = (b"content-type", b"text/plain; charset=utf-8")


class StreamService(Protocol):
    """What is behind an HTTP/2 port; plain calls."""

    def answer(self, stream: Http2ServerStream, request: Request) -> SlowCall | None:
        """A whole request whose body was collected."""

    def open_stream(self, stream: Http2ServerStream) -> StreamReader | None:
        """At the head, before any body. A reader gets the body as it comes; None: collect it, then `answer`."""


Refuse = Callable[[Http2ServerStream, Refusal], None]


class Http2ServerConnection(Http2Endpoint):
    __slots__ = (
        "_count_fault",
        "_incomplete",
        "_lingering",
        "_refuse",
        "_serving",
        "_starting",
        "_streams",
        "collected_bytes",
        "collected_bytes_max",
        "limits",
        "requests",
        "scope",
        "service",
    )
    watch = READ | HALF_CLOSED

    def __init__(
        self,
        sock: socket.socket,
        reactor: Reactor,
        timers: Timers,
        limits: ServerLimits,
        *,
        service: StreamService,
        count_fault: Callable[[str], None],
        refuse: Refuse | None = None,
        http2: Http2Config | None = None,
        predecessor: Connection | None = None,
    ) -> None:
        """`count_fault`: told the reason of each refusal and of each connection that ends for its client's fault.
        `refuse`: answers what never became a request, after it was counted; in plain text when left out."""
        self.limits = limits
        self.service = service
        self._count_fault = count_fault
        self._refuse = refuse or _refuse_in_text
        self._streams: dict[int, Http2ServerStream] = {}
        self._incomplete: list[Http2ServerStream] = []  # In the read under way, and still without their body.
        self._lingering: dict[int, Lingering] = {}
        self._starting: deque[Http2ServerStream] = deque()
        self._serving = False
        self.collected_bytes = 0
        self.collected_bytes_max = _BODIES_COLLECTED_MAX * limits.body_bytes_max
        self.requests = 0
        self.scope = trio.CancelScope()
        times = EndpointTimes(idle_timeout_s=limits.idle_timeout_s, send_timeout_s=limits.send_timeout_s)
        config = http2 or replace(SERVER_CONFIG, stalled_s=limits.send_timeout_s)
        super().__init__(sock, reactor, timers, config, times, predecessor=predecessor)

    # --- the task ---

    def begin_upgraded(self, request: Request, settings: bytes, rest: bytes) -> None:
        """An upgrade from HTTP/1.1 whose 101 is sent: answer its request as stream 1. `settings` is decoded."""
        try:
            self.machine.start_upgraded(settings, self.timers.now())
        except RemoteProtocolError:
            self._count_fault("protocol")
            self.machine.start()
            self.say_goodbye(ErrorCode.PROTOCOL_ERROR)
            return
        self._begun = True
        self._open_upgraded(request)
        self.begin(rest)

    async def serve(self) -> None:
        """Run what the streams hand over, until the connection is closed. Raises ConnectionLost then."""
        ending: Exception = ConnectionLost("closed")
        async with trio.open_nursery() as nursery:
            self._serving = True
            try:
                while not self.closed:
                    while self._starting:
                        nursery.start_soon(self._starting.popleft().run_calls)
                    if self.flush_due:
                        self.flush()
                    else:
                        await self.park()
            except Exception as error:  # noqa: BLE001 - raised below, where no nursery wraps it.
                ending = error
            finally:
                self._serving = False
            nursery.cancel_scope.cancel()
        raise ending

    def run_calls_of(self, stream: Http2ServerStream) -> None:
        self._starting.append(stream)
        self.wake(outcome.Value(None))

    def flush_from_outside(self) -> None:
        """Streams' tasks that run in the same turn share a write: the connection's task does it after them."""
        if not self.wake(outcome.Value(None)) and not self._serving:
            self.flush()

    def wind_down(self) -> None:
        """Take no further streams; the connection ends when the open ones have (RFC 9113 section 6.8)."""
        if not self.closed and not self._ended:
            self.machine.drain()
            self.flush()

    @property
    def winding_down(self) -> bool:
        """The client has been warned, and what it sent before it knew may still come."""
        return self.machine.draining and not self.machine.goaway_sent and not self.closed

    def on_idle(self) -> None:
        """A request may be on its way: the client is warned, and only then is it over."""
        if self.machine.draining:
            self.say_goodbye()
        else:
            self.wind_down()

    # --- events: plain calls; what one raises ends its stream only ---

    def on_http_event(self, event: Event) -> None:
        match event:
            case DataReceived():
                self._on_data(event)
            case HeadersReceived():
                self._open(event)
            case TrailersReceived():
                self._on_trailers(event)
            case StreamReset():
                self._on_reset(event)
            case _:
                pass  # Settings and drained queues are seen to at the next flush; a client's GOAWAY asks for nothing.

    def _open(self, event: HeadersReceived) -> None:
        head, protocol = request_head(event.fields, end_stream=event.end_stream)
        stream = Http2ServerStream(self, event.stream_id, head, protocol)
        stream.received_end = event.end_stream
        self._streams[event.stream_id] = stream
        try:
            if len(head.target) > HTTP1_TARGET_BYTES_MAX:
                text = f"request target of more than {HTTP1_TARGET_BYTES_MAX} bytes"
                stream.refuse(Refusal(414, "head_oversized", text))
                return
            stream.begin(self.service.open_stream(stream), end=event.end_stream)
        except Exception as error:  # noqa: BLE001 - one stream's defect; the connection lives on.
            stream.crashed(error)
        if not event.end_stream:
            self._incomplete.append(stream)

    def _open_upgraded(self, request: Request) -> None:
        stream = Http2ServerStream(self, 1, request.head, b"")
        stream.received_end = True
        self._streams[1] = stream
        try:
            stream.begin_whole(self.service.open_stream(stream), request)
        except Exception as error:  # noqa: BLE001 - one stream's defect; the connection lives on.
            stream.crashed(error)

    def _on_data(self, event: DataReceived) -> None:
        stream = self._streams.get(event.stream_id)
        if stream is None:  # It was answered before its request was whole. Its own window is left to close.
            self.machine.credit(0, event.flow_bytes)
            if event.end_stream:
                self._heard_all(event.stream_id)
            return
        try:
            stream.on_data(event)
        except Exception as error:  # noqa: BLE001 - one stream's defect; the connection lives on.
            stream.crashed(error)

    def _on_trailers(self, event: TrailersReceived) -> None:
        stream = self._streams.get(event.stream_id)
        if stream is None:
            self._heard_all(event.stream_id)
            return
        try:
            stream.on_trailers(event.fields)
        except Exception as error:  # noqa: BLE001 - one stream's defect; the connection lives on.
            stream.crashed(error)

    def _on_reset(self, event: StreamReset) -> None:
        if not event.remote:
            self._count_fault("stream_error")
        stream = self._streams.get(event.stream_id)
        if stream is not None:
            stream.on_gone()
        else:  # Its answer was complete; either side wanted no more of the other.
            self.stop_lingering(event.stream_id)

    def on_received(self, now: float) -> None:
        for stream in self._incomplete:
            stream.await_body()
        self._incomplete.clear()

    # --- what streams ask of their connection ---

    @property
    def idle(self) -> bool:
        # An answer that is complete here may wait for windows yet; one that waits too long is reset (stalled_s).
        return not self._streams and not self._lingering and not self.machine.streams_open

    def refuse(self, stream: Http2ServerStream, refusal: Refusal) -> None:
        self._count_fault(refusal.reason)
        self._refuse(stream, refusal)

    def finished(self, stream: Http2ServerStream) -> None:
        """Its answer is complete. Of a request that is not, the rest is not wanted, and the client is told so without
        an error (RFC 9113 section 8.1), a while later: some take a reset at once for the loss of the answer."""
        if not stream.received_end:
            self._lingering[stream.stream_id] = Lingering(self, stream.stream_id, ErrorCode.NO_ERROR, LINGER_S)

    def broken_off(self, stream: Http2ServerStream) -> None:
        """Its last words are under way. Clients throw away what they have not read by the time a reset comes."""
        self._lingering[stream.stream_id] = Lingering(self, stream.stream_id, ErrorCode.INTERNAL_ERROR, _LAST_WORDS_S)

    def _heard_all(self, stream_id: int) -> None:
        """A request whose answer is complete has ended: the stream needs no reset any more, unless it broke off."""
        lingering = self._lingering.get(stream_id)
        if lingering is not None and lingering.code is ErrorCode.NO_ERROR:
            self.stop_lingering(stream_id)

    def stop_lingering(self, stream_id: int) -> None:
        """The client has said the rest, or reset the stream itself; or it has had its time."""
        lingering = self._lingering.pop(stream_id, None)
        if lingering is not None:
            self.timers.disarm(lingering)

    def forget(self, stream: Http2ServerStream) -> None:
        self._streams.pop(stream.stream_id, None)

    # --- output and ending ---

    def on_sent(self) -> None:
        # Heads and answers to control frames wait for no window: a client that asks and does not read is not heard.
        # The asking side does hear always, so that no two of us wait for each other.
        if self.backlog_len > BACKLOG_HIGH_BYTES and self.machine.unsent_bytes > _UNSENT_HIGH_BYTES:
            self.pause()
        elif self.paused:
            self.resume()
        if self.machine.closed and not self._streams:
            self.linger()

    def end_streams(self, error: ConnectionLost) -> None:
        for stream_id in list(self._lingering):
            self.stop_lingering(stream_id)
        for stream in list(self._streams.values()):
            stream.on_gone()

    def on_connection_error(self, event: ConnectionEnded) -> None:
        self._count_fault(event.reason)

    def on_lost(self, error: ConnectionLost) -> None:
        self.scope.cancel()

    def on_send_timeout(self) -> None:
        self._count_fault("send_timed_out")
        super().on_send_timeout()


class Lingering:
    """A stream whose answer is out, or queued, and is all that will come: it is reset after a while."""

    __slots__ = ("_after_s", "_connection", "_stream_id", "code", "deadline", "timer")

    def __init__(self, connection: Http2ServerConnection, stream_id: int, code: ErrorCode, after_s: float) -> None:
        self._connection = connection
        self._stream_id = stream_id
        self._after_s = after_s
        self.code = code
        self.deadline = math.inf
        self.timer: Entry | None = None
        connection.timers.arm(self, connection.timers.now() + after_s)

    def on_deadline(self, now: float) -> None:
        connection, stream_id = self._connection, self._stream_id
        if connection.machine.queued_bytes(stream_id):  # The answer is still to be taken, which has its own time.
            connection.timers.arm(self, now + self._after_s)
            return
        connection.stop_lingering(stream_id)
        connection.machine.reset(stream_id, self.code)
        connection.flush_soon()


def _refuse_in_text(stream: Http2ServerStream, refusal: Refusal) -> None:
    stream.respond(refusal.status, [_TEXT], refusal.message.encode() + b"\n", method=stream.head.method)
