"""What both sides of an HTTP/2 connection share: the machine and the socket, output in one write, time, the end.

The machine (wire.http2) knows frames and streams and no socket; here its events are handed to a subclass, its output
is written once for each batch of the reactor, and its clock is one deadline among the connection's own: an idle
connection, output that nobody takes, a peer that does not answer a ping.

Back-pressure: output stays in the machine, stream by stream, while the socket takes no more; a stream that has too
much of it is `held back` (http2.stream) until a flush finds it low again.

Duties of a subclass: `on_http_event`, by plain calls; what it raises for one stream must end that stream only, so it
catches there. `idle` and `end_streams` for the streams it keeps.
"""

from __future__ import annotations

import math
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from infermesh.net.connection import BACKLOG_HIGH_BYTES, Connection, ConnectionLost
from infermesh.net.reactor import Reactor
from infermesh.net.timers import Timers
from wire.http2.config import Http2Config
from wire.http2.connection import Http2Connection
from wire.http2.events import (
    ConnectionEnded,
    DataReceived,
    Event,
    HeadersReceived,
    InterimReceived,
    PingAcked,
    TrailersReceived,
)
from wire.http2.frames import ErrorCode

if TYPE_CHECKING:
    from infermesh.net.http2.stream import Http2Stream

_OF_STREAMS: Final = frozenset({DataReceived, HeadersReceived, TrailersReceived, InterimReceived})
_LINGER_S: Final = 2.0
_LINGER_BYTES_MAX: Final = 1 << 20
_PING: Final = b"infrmesh"  # Any eight bytes: which ping is answered does not matter, only that one is.
# gRPC servers end a connection that pings them thrice without having been sent anything in between
# (gRPC proposal A8), unless five minutes lie between the pings.
_PINGS_IN_SILENCE_MAX: Final = 2
_PING_INTERVAL_IN_SILENCE_S: Final = 310.0


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointTimes:
    """Seconds. `ping_after_s`: silence, while streams are open, after which the peer is asked whether it is there."""

    idle_timeout_s: float = 75.0
    send_timeout_s: float = 30.0
    ping_after_s: float = 30.0
    ping_timeout_s: float = 15.0


class Http2Endpoint(Connection):
    __slots__ = (
        "_begun",
        "_ended",
        "_heard_at",
        "_idle_by",
        "_linger_by",
        "_ping_by",
        "_ping_unacked",
        "_pings_in_silence",
        "_receiving",
        "_send_by",
        "_sent_mark",
        "_times",
        "_waiting",
        "flush_due",
        "machine",
    )

    def __init__(
        self,
        sock: socket.socket,
        reactor: Reactor,
        timers: Timers,
        config: Http2Config,
        times: EndpointTimes,
        *,
        predecessor: Connection | None = None,
    ) -> None:
        now = timers.now()
        self.machine = Http2Connection(config, now)
        self._times = times
        self._begun = False
        self.flush_due = False  # It is asked for already: no need to ask again.
        self._receiving = False
        self._ended = False  # Our side has said its last; what still comes is thrown away.
        self._waiting: dict[Http2Stream, None] = {}  # Held back, oldest first.
        self._heard_at = now
        self._idle_by = now + times.idle_timeout_s
        self._send_by = math.inf
        self._sent_mark = 0
        self._ping_by = math.inf
        self._ping_unacked = False
        self._pings_in_silence = 0
        self._linger_by = math.inf
        super().__init__(sock, reactor, timers, predecessor=predecessor)
        if self.backlog_len:
            self.on_backlog()  # The predecessor's last words, under our clock from now on.

    # --- what a subclass answers ---

    def on_http_event(self, event: Event) -> None:
        raise NotImplementedError

    @property
    def idle(self) -> bool:
        """No stream is open."""
        raise NotImplementedError

    def end_streams(self, error: ConnectionLost) -> None:
        """Every stream is lost, and is told so."""
        raise NotImplementedError

    def on_connection_error(self, event: ConnectionEnded) -> None:
        """The peer broke the protocol, or misused it; it has been told so. Streams have ended."""

    def on_idle(self) -> None:
        """No stream was open for `idle_timeout_s`."""
        self.say_goodbye()

    # --- reading ---

    def begin(self, rest: bytes = b"") -> None:
        """Send our settings; then take what was read already. Once TLS is ready, if there is any."""
        if not self._begun:
            self._begun = True
            self.machine.start()
        if rest:
            self.on_bytes(rest)
        else:
            self.flush()

    def on_bytes(self, data: bytes) -> None:
        if self._ended:
            if self.bytes_in > _LINGER_BYTES_MAX:
                self.abort()
            return
        if not self._begun:  # They came with the end of the TLS handshake.
            self.begin()
        now = self.timers.now()
        self._heard_at = now
        self._ping_by = math.inf
        self._take(self.machine.receive(data, now), now)

    def _take(self, events: list[Event], now: float) -> None:
        self._receiving = True
        try:
            for event in events:
                kind = type(event)
                if kind in _OF_STREAMS:
                    # The connection is in use, and a peer that counts pings in silence starts anew.
                    self._pings_in_silence = 0
                    self._idle_by = math.inf
                    self.on_http_event(event)
                elif kind is ConnectionEnded:
                    assert isinstance(event, ConnectionEnded)
                    self._end_broken(event)
                elif kind is PingAcked:
                    self._ping_unacked = False
                else:
                    self.on_http_event(event)
                if self.closed or self._ended:
                    return
        finally:
            self._receiving = False
        self.on_received(now)
        self.flush()

    def on_received(self, now: float) -> None:
        """All events of one read have been told."""

    def _end_broken(self, event: ConnectionEnded) -> None:
        error = ConnectionLost(f"{event.why} ({ErrorCode(event.code).name})")
        self.end_streams(error)
        self.on_connection_error(event)
        self.linger()

    # --- writing ---

    def flush_soon(self) -> None:
        """The machine may have output: it goes out with the batch under way, together with whatever else comes up."""
        if self.flush_due or self._receiving or self.closed:
            return
        self.flush_due = True
        if not self.reactor.flush_after_batch(self):
            self.flush_from_outside()

    def flush_from_outside(self) -> None:
        """Output arose in a task or a timer, not in the reactor."""
        try:
            self.flush()
        except Exception as error:  # noqa: BLE001 - this connection's defect, met in the course of somebody else.
            self._end_crashed(error)

    def flush(self) -> None:
        self.flush_due = False
        if self.closed or self._ended:
            return
        self._write_output()
        if self._waiting and self.backlog_len <= BACKLOG_HIGH_BYTES:
            for stream in list(self._waiting):
                stream.release_if_low()
        self.on_sent()
        self._write_output()
        self._arm()

    def _write_output(self) -> None:
        machine = self.machine
        while machine.has_output and not self.closed and self.backlog_len <= BACKLOG_HIGH_BYTES:
            data = machine.take_output()
            if not data:
                break
            self.write(data)
        machine.take_drained()  # What was held back is looked at here, whichever way it became less.

    @property
    def unsent_len(self) -> int:
        return self.backlog_len + self.machine.unsent_bytes + self.machine.queued_bytes_total

    def on_sent(self) -> None:
        """The machine's output is with the kernel, or waits for the peer."""

    def hold_back(self, stream: Http2Stream) -> None:
        self._waiting[stream] = None

    def forget_held_back(self, stream: Http2Stream) -> None:
        self._waiting.pop(stream, None)

    def on_flushed(self) -> None:
        self._send_by = math.inf
        if self._ended:
            self._say_last_word()
        else:
            self.flush()

    def on_backlog(self) -> None:
        self._sent_mark = self.bytes_out
        self._send_by = self.timers.now() + self._times.send_timeout_s
        self._arm()

    # --- time ---

    def _arm(self) -> None:
        if self.closed or (self.tls is not None and not self.tls.ready):
            return
        due = self.machine.wake_at
        if self._ended:
            due = self._linger_by
        elif self.idle:
            if self._idle_by == math.inf:
                self._idle_by = self.timers.now() + self._times.idle_timeout_s
            due = min(due, self._idle_by)
        else:
            self._idle_by = math.inf
            due = min(due, self._next_ping_at() if self._ping_by == math.inf else self._ping_by)
        if self._send_by < due:
            due = self._send_by
        if due != self.deadline:
            self.timers.arm(self, due)

    def _next_ping_at(self) -> float:
        after_s = self._times.ping_after_s
        if self._pings_in_silence >= _PINGS_IN_SILENCE_MAX:
            after_s = max(after_s, _PING_INTERVAL_IN_SILENCE_S)
        return self._heard_at + after_s

    def on_deadline(self, now: float) -> None:
        try:
            self._on_time(now)
        except Exception as error:  # noqa: BLE001 - without its clock the connection would live for ever.
            self._end_crashed(error)

    def _on_time(self, now: float) -> None:
        if self.tls is not None and not self.tls.ready:
            self.on_handshake_late()
        elif self._send_by <= now and self.bytes_out == self._sent_mark:
            self.on_send_timeout()
        elif self._linger_by <= now:
            self.abort()
        elif self._ping_by <= now:
            self.lose(f"no answer to a ping for {self._times.ping_timeout_s} s (ping_timeout_s)")
        elif self._idle_by <= now and not self._ended:
            self._idle_by = math.inf
            self.on_idle()
        else:
            if self._send_by <= now:
                self._sent_mark = self.bytes_out
                self._send_by = now + self._times.send_timeout_s
            self._go_on(now)

    def _go_on(self, now: float) -> None:
        if self._ended:
            self._arm()
            return
        if self._ping_by == math.inf and not self.idle and self._next_ping_at() <= now:
            self._ping_by = now + self._times.ping_timeout_s
            if not self._ping_unacked:  # Else it is that one which waits for its answer.
                self._ping_unacked = True
                self._pings_in_silence += 1
                self.machine.ping(_PING)
        self._take(self.machine.on_wake(now) if self.machine.wake_at <= now else [], now)

    def _end_crashed(self, error: Exception) -> None:
        self.lose("a defect on this node, see connection_crashed in its log")
        self.reactor.report(error)

    def on_handshake_late(self) -> None:
        self.lose("no TLS handshake in time")

    def on_send_timeout(self) -> None:
        self.lose(f"took no output for {self._times.send_timeout_s} s (send_timeout_s)")

    # --- ending ---

    def say_goodbye(self, code: ErrorCode = ErrorCode.NO_ERROR) -> None:
        """GOAWAY, and the end: for when no stream is open, or none shall be."""
        if self.closed or self._ended:
            return
        self.machine.goaway(code)
        self.end_streams(ConnectionLost("the connection was ended here"))
        self.linger()

    def linger(self) -> None:
        """Closing with unread input makes the kernel reset the connection, which can eat what was said last."""
        if self.closed or self._ended:
            return
        self._ended = True
        while self.machine.has_output and (rest := self.machine.take_output()):
            self.write(rest)
        self.bytes_in = 0
        if not self.closed:
            self.resume()
            if self.backlog_len == 0:
                self._say_last_word()
            self._arm()

    def _say_last_word(self) -> None:
        self._linger_by = self.timers.now() + _LINGER_S
        try:
            if self.tls is not None and self.tls.ready:
                self._write_raw(self.tls.close_notify())
            if self.backlog_len == 0:
                self.sock.shutdown(socket.SHUT_WR)
        except OSError:
            self.abort()  # The peer went first.
        self._arm()

    def on_eof(self) -> None:
        if self._ended:
            self.abort()
        else:
            self.lose("closed by the peer")

    def abort(self, error: ConnectionLost | None = None) -> None:
        if self.closed:
            return
        super().abort(error)
        self._waiting.clear()
        self.end_streams(error or ConnectionLost("closed here"))
