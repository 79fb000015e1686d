"""One end of an HTTP/2 connection (RFC 9113), as a machine: bytes in, events out, bytes to send. No sockets, no clock.

Built for a proxy: a DATA frame from one connection to another is a few microseconds. The two halves are
`wire.http2.receive` and `wire.http2.send`; this file is what callers see, and what they may not do.

Duties of the caller, and what breaks without them:

1. `start` (or `start_upgraded`) once, before anything else.
2. After every call that may have made output: send `take_output()`, again while `has_output`, but only as fast as
   the socket takes it: content waits here, in fair turns, not in the socket's backlog. While output is not taken,
   do not `receive` either: a peer that asks and never reads would fill our memory with heads (`unsent_bytes`).
3. Every DataReceived's `flow_bytes` goes back by `credit` once its data is consumed, or the peer stands still.
4. When `wake_at` has passed, `on_wake(now)`; `wake_at` may move with every call. Drained events come by `receive`
   and `on_wake`: while some are to be told, `wake_at` lies in the past.
5. After ConnectionEnded, or once `closed`: flush the output, close the socket, drop this object.

Sending on a stream that is gone is ignored, on purpose: a reset crosses what a caller is about to send, and nobody
should have to look twice. Sending after one's own end, or a second head, is a LocalProtocolError: a bug.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from wire.errors import LocalProtocolError
from wire.http1.fields import Field
from wire.http2.abuse import ABUSE_REASONS, Abuse
from wire.http2.config import Http2Config
from wire.http2.events import ConnectionEnded, Drained, Event
from wire.http2.faults import ConnectionFault
from wire.http2.flow import step_of
from wire.http2.frames import END_STREAM, STREAM_ID_MAX, ErrorCode, encode_goaway, encode_ping, encode_window_update
from wire.http2.opening import start, start_upgraded
from wire.http2.receive import Inbox
from wire.http2.session import Session
from wire.http2.streams import AFTER_HEAD, HALF_CLOSED_REMOTE, IDLE, OPEN, Stream
from wire.http2.wakes import on_alarms

DRAIN_PING: Final = b"draining"
_PINGS_MAX: Final = 16
_DEBUG_BYTES_MAX: Final = 200


class Http2Connection:
    __slots__ = ("_inbox", "_next_id", "_outbox", "_session", "_stream_step", "_streams", "closed_by_fault", "draining")

    def __init__(self, config: Http2Config, now: float) -> None:
        self._session = Session(config, now)
        self._outbox = self._session.outbox
        self._streams = self._session.streams.live
        self._inbox = Inbox(self._session)
        self._next_id = 1
        self._stream_step = step_of(config.window_bytes)
        self.closed_by_fault = False
        self.draining = False

    # --- beginning ---

    def start(self) -> None:
        """Our preface: SETTINGS, and the connection's window, which SETTINGS cannot widen."""
        start(self._session)

    def start_upgraded(self, settings: bytes, now: float) -> None:
        """Instead of `start`, on a server whose client asked for h2c in HTTP/1.1 (RFC 7540 section 3.2).

        `settings`: the decoded HTTP2-Settings. Stream 1 is then open for our answer to that request. Raises
        RemoteProtocolError, before any output, when the settings are none.
        """
        self._session.now = now
        start_upgraded(self._session, settings)

    # --- the peer ---

    def receive(self, data: bytes, now: float) -> list[Event]:
        """What these bytes mean. Never raises for what the peer does; a partial frame is kept for the next call."""
        if self.closed_by_fault:
            return []
        session = self._session
        session.now = now
        session.ledger.turn(now)
        events: list[Event] = []
        try:
            self._inbox.feed(data, events)
            self._outbox.check_unsent()
        except ConnectionFault as fault:
            self._fail(fault, events)
        if self._outbox.drained:
            events += self.take_drained()
        return events

    def _fail(self, fault: ConnectionFault, events: list[Event]) -> None:
        self.closed_by_fault = True
        for stream in self._streams.values():
            self._outbox.forget(stream)
        self._streams.clear()
        self._inbox.forget()
        session = self._session
        session.alarms.clear_all()
        # gRPC's clients ping half as often once they read exactly this (proposal A8).
        pings = fault.reason == ABUSE_REASONS[Abuse.PINGS]
        debug = b"too_many_pings" if pings else fault.why.encode("ascii", "replace")[:_DEBUG_BYTES_MAX]
        session.goaway(fault.code, debug)
        events.append(ConnectionEnded(fault.code, fault.reason, fault.why))

    # --- our output ---

    def take_output(self) -> bytes:
        """What may leave now, bounded; see the duties. Empty when there is nothing."""
        return self._outbox.take()

    @property
    def has_output(self) -> bool:
        return self._outbox.has_output()

    @property
    def unsent_bytes(self) -> int:
        """Control frames, heads and placed content that were not taken; content in queues is not among them."""
        return self._outbox.unsent_bytes()

    def take_drained(self) -> list[Drained]:
        """The Drained events that `take_output` has caused; asked for here, they do not come by `on_wake`."""
        drained = self._outbox.drained
        self._outbox.drained = []
        return [event for event in drained if event.stream_id in self._streams]

    # --- streams ---

    @property
    def can_open(self) -> bool:
        """Client: one more stream is allowed now."""
        session = self._session
        return (
            len(self._streams) < min(session.peer.max_concurrent, session.config.streams_max)
            and not session.goaway_received
            and not self.draining
            and not self.closed_by_fault
            and not session.is_server
            and self._next_id <= STREAM_ID_MAX
        )

    def open_stream(self) -> int:
        """The id of a new stream; `send_headers` on it must come before the next stream is opened."""
        if not self.can_open:
            raise LocalProtocolError("no stream can be opened now; ask `can_open` first")
        stream_id = self._next_id
        self._next_id += 2
        session = self._session
        self._streams[stream_id] = Stream(
            stream_id, IDLE, send_window=session.peer.initial_window, receive_window=session.grant
        )
        return stream_id

    def send_headers(self, stream_id: int, fields: Sequence[Field], *, end_stream: bool = False) -> None:
        """A head: the request's, a 1xx or the final response's; after that trailers, which leave behind the content."""
        stream = self._streams.get(stream_id)
        if stream is None:
            self._check_used(stream_id)
            return
        if stream.ending:
            raise LocalProtocolError(f"HEADERS on stream {stream_id} after its end")
        if stream.head_sent:
            if not end_stream:
                raise LocalProtocolError(f"trailers on stream {stream_id} without end_stream")
            stream.ending = True
            self._outbox.trailers(stream, fields)
            return
        if not self._session.is_server:
            self._begin_request(stream, fields)
        elif fields and fields[0][0] == b":status" and fields[0][1][:1] == b"1":
            if end_stream:
                raise LocalProtocolError(f"an interim response cannot end stream {stream_id}")
            self._outbox.head(stream, fields, 0)
            return
        assert AFTER_HEAD[stream.state] is stream.state
        stream.head_sent = True
        stream.ending = end_stream
        self._outbox.head(stream, fields, END_STREAM if end_stream else 0)

    def send_data(self, stream_id: int, data: bytes, *, end_stream: bool = False) -> int:
        """Content, straight into the output or queued behind what waits. Returns `queued_bytes`."""
        stream = self._streams.get(stream_id)
        if stream is None:
            self._check_used(stream_id)
            return 0
        if stream.ending or not stream.head_sent:
            when = "after its end" if stream.ending else "before its head"
            raise LocalProtocolError(f"DATA on stream {stream_id} {when}")
        stream.ending = end_stream
        self._outbox.data(stream, data, end=end_stream)
        queue = stream.queue
        return 0 if queue is None else queue.queued_bytes

    def queued_bytes(self, stream_id: int) -> int:
        stream = self._streams.get(stream_id)
        return 0 if stream is None or stream.queue is None else stream.queue.queued_bytes

    def reset(self, stream_id: int, code: int) -> None:
        """Give the stream up: RST_STREAM, and no event. Nothing happens to a stream that is gone."""
        stream = self._streams.get(stream_id)
        if stream is None:
            self._check_used(stream_id)
            return
        if stream.state is IDLE:  # The peer never heard of it.
            del self._streams[stream_id]
            return
        self._outbox.forget(stream)
        self._session.streams.reset_by_us(stream)
        self._outbox.reset(stream_id, code)

    def credit(self, stream_id: int, flow_bytes: int) -> bool:
        """So many bytes of DataReceived on this stream have been consumed. Returns whether that made output."""
        session = self._session
        told = session.credit_connection(flow_bytes)
        stream = self._streams.get(stream_id)
        if stream is not None and stream.state is not HALF_CLOSED_REMOTE:
            increment = stream.give_back(flow_bytes, self._stream_step)
            if increment:
                session.outbox.control(encode_window_update(stream_id, increment))
                return True
        return told

    def _begin_request(self, stream: Stream, fields: Sequence[Field]) -> None:
        streams = self._session.streams
        if stream.stream_id < streams.highest:
            raise LocalProtocolError(f"stream {stream.stream_id} begins after stream {streams.highest} (section 5.1.1)")
        streams.highest = stream.stream_id
        stream.state = OPEN
        stream.bodiless = (b":method", b"HEAD") in fields

    def _check_used(self, stream_id: int) -> None:
        if self._session.streams.is_idle(stream_id) and not self.closed_by_fault and stream_id >= self._next_id:
            raise LocalProtocolError(f"stream {stream_id} was never opened")

    # --- the connection ---

    def ping(self, payload: bytes) -> None:
        """Eight bytes that come back as PingAcked."""
        assert len(payload) == 8
        assert payload != DRAIN_PING
        pings = self._session.pings
        if len(pings) >= _PINGS_MAX:
            raise LocalProtocolError(f"{len(pings)} PINGs wait for their ACK; the peer does not answer")
        pings.append(payload)
        self._outbox.control(encode_ping(payload))

    def goaway(self, code: int, debug: bytes = b"") -> None:
        """No further streams: those that the peer has opened up to now are served, later ones ignored."""
        if self.closed_by_fault:
            return  # It has been told more than that.
        self.draining = True
        self._session.goaway(code, debug)

    @property
    def goaway_sent(self) -> bool:
        """The peer has been told which of its streams is the last, or will be with the next output."""
        return self._session.goaway_sent

    def drain(self) -> None:
        """Server: let the client stop by itself. It is warned, and the last stream is named once it has heard that."""
        session = self._session
        if self.draining or self.closed_by_fault:
            return
        self.draining = True
        if not session.is_server:
            session.goaway(ErrorCode.NO_ERROR)
            return
        session.drain_ping = DRAIN_PING
        session.drain_untimed = True
        session.outbox.ordered(encode_goaway(STREAM_ID_MAX, ErrorCode.NO_ERROR) + encode_ping(DRAIN_PING))

    @property
    def queued_bytes_total(self) -> int:
        """Content that waits in the queues of all streams."""
        return sum(stream.queue.queued_bytes for stream in self._streams.values() if stream.queue is not None)

    @property
    def streams_open(self) -> int:
        return len(self._streams)

    @property
    def closed(self) -> bool:
        """Nothing further will happen: flush and close."""
        if self.closed_by_fault:
            return True
        session = self._session
        return not self._streams and (session.goaway_sent or (session.goaway_received and not session.is_server))

    @property
    def max_concurrent(self) -> int:
        return self._session.peer.max_concurrent

    @property
    def initial_window(self) -> int:
        return self._session.peer.initial_window

    @property
    def frame_max(self) -> int:
        return self._session.peer.frame_max

    @property
    def extended_connect(self) -> bool:
        """The peer, a server, takes RFC 8441 CONNECT."""
        return self._session.peer.extended_connect

    # --- time ---

    @property
    def wake_at(self) -> float:
        session = self._session
        if self._outbox.drained or session.is_untimed():
            return session.now  # At once: a wait has begun that has to learn the time.
        return session.alarms.wake_at

    def on_wake(self, now: float) -> list[Event]:
        if self.closed_by_fault:
            return []
        session = self._session
        session.now = now
        events: list[Event] = []
        events += self.take_drained()
        try:
            on_alarms(session, events)
        except ConnectionFault as fault:
            self._fail(fault, events)
        return events
