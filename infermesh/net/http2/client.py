"""The asking side of one HTTP/2 connection: many exchanges at once, each a stream (client_stream).

Not here: who gets a stream of which connection; that is the owner's, a pool. A peer that says GOAWAY gets no further
streams; those that it has not looked at are failed as unprocessed, the others end as they would have. A connection
whose peer is silent while it owes answers is asked by PING, and lost when it does not say a word.

Duties of the owner: `begin` where there is no TLS handshake, which begins by itself; `reserve` for each stream that
it hands out.
"""

from __future__ import annotations

import socket
from typing import Final, Protocol, assert_never

from infermesh.net.connection import ConnectionLost
from infermesh.net.http2.client_stream import Http2UpstreamStream
from infermesh.net.http2.endpoint import EndpointTimes, Http2Endpoint
from infermesh.net.reactor import Reactor
from infermesh.net.timers import Timers
from wire.errors import LocalProtocolError
from wire.http2.config import Http2Config, Role
from wire.http2.events import (
    DataReceived,
    Event,
    GoawayReceived,
    HeadersReceived,
    InterimReceived,
    SettingsReceived,
    StreamReset,
    TrailersReceived,
)
from wire.http2.frames import ErrorCode

# Together the streams of a connection cannot use up its window: whoever reads slowly holds up nobody else. How long
# an exchange may stand still is for whoever made it to say.
CLIENT_CONFIG: Final = Http2Config(
    role=Role.CLIENT, streams_max=128, window_bytes=512 << 10, connection_window_bytes=64 << 20, stalled_s=600.0
)


class ClientOwner(Protocol):
    """Who keeps the connection: a pool."""

    def has_room(self, connection: Http2ClientConnection) -> None:
        """A stream has ended, or the peer allows more of them."""

    def answered(self, connection: Http2ClientConnection) -> None:
        """The first answer has begun."""

    def forget(self, connection: Http2ClientConnection) -> None:
        """The connection is closed, or takes no further streams. Called once or more."""


class Http2ClientConnection(Http2Endpoint):
    __slots__ = (
        "_answered",
        "_config",
        "_owner",
        "_reserved",
        "_streams",
        "exchanges",
        "pinged_too_often",
        "retiring",
        "serial",
    )

    def __init__(
        self,
        sock: socket.socket,
        reactor: Reactor,
        timers: Timers,
        owner: ClientOwner,
        *,
        config: Http2Config = CLIENT_CONFIG,
        times: EndpointTimes,
        serial: int = 0,
    ) -> None:
        """`serial` grows with each connection of its owner."""
        self._config = config
        self._owner = owner
        self._streams: dict[int, Http2UpstreamStream] = {}
        self._reserved = 0
        self._answered = False
        self.exchanges = 0
        self.retiring = False  # No new streams; the end comes with the last one.
        self.pinged_too_often = False
        self.serial = serial
        super().__init__(sock, reactor, timers, config, times)

    def on_secure(self) -> None:
        super().on_secure()
        self.begin()  # Before anything of the peer's is read, which may have come already.

    # --- streams ---

    @property
    def room(self) -> int:
        """How many more streams may be handed out."""
        if self.closed or self.retiring:
            return 0
        if self.tls is not None and self.tls.retire_at <= self.timers.now():
            return 0
        most = min(self._config.streams_max, self.machine.max_concurrent)
        return most - len(self._streams) - self._reserved

    @property
    def idle(self) -> bool:
        return not self._streams and not self._reserved

    def reserve(self) -> Http2UpstreamStream:
        self._reserved += 1
        return Http2UpstreamStream(self)

    def admit(self, stream: Http2UpstreamStream) -> str:
        """A reserved stream opens. Returns why it cannot, if so."""
        if self.closed:
            return "closed before the request was sent"
        try:
            stream.stream_id = self.machine.open_stream()
        except LocalProtocolError:
            return "the peer takes no further streams on this connection"
        self._reserved -= 1
        self._streams[stream.stream_id] = stream
        self.exchanges += 1
        stream.reused = self.exchanges > 1
        return ""

    def forget(self, stream: Http2UpstreamStream) -> None:
        """A stream has ended, or was never opened."""
        if stream.stream_id:
            self._streams.pop(stream.stream_id, None)
        else:
            self._reserved -= 1
        if self.closed:
            return
        if self.room > 0:
            self._owner.has_room(self)
        else:
            self.flush_soon()  # Which ends one that retires and has no stream left.

    def doubt(self, why: str) -> None:
        """The peer is held for dead: whoever uses a stream is told."""
        for stream in list(self._streams.values()):
            try:
                stream.doubt(why)
            except Exception as error:  # noqa: BLE001 - one exchange's defect; the others hear of it all the same.
                stream.crashed(error)

    def retire(self) -> None:
        """Take no further streams; the end comes with the last one."""
        if not self.retiring:
            self.retiring = True
            self._owner.forget(self)
            self.flush_soon()

    # --- events ---

    def on_http_event(self, event: Event) -> None:
        match event:
            case DataReceived() | HeadersReceived() | TrailersReceived() | InterimReceived():
                self._on_payload(event)
            case StreamReset():
                stream = self._streams.get(event.stream_id)
                if stream is not None:
                    stream.on_reset(event)
            case GoawayReceived():
                self.pinged_too_often = event.code == ErrorCode.ENHANCE_YOUR_CALM and event.debug == b"too_many_pings"
                self.retire()
            case SettingsReceived():
                if self.room > 0:
                    self._owner.has_room(self)
            case _:
                pass  # Drained queues are seen to at the next flush.

    def _on_payload(self, event: DataReceived | HeadersReceived | TrailersReceived | InterimReceived) -> None:
        stream = self._streams.get(event.stream_id)
        if stream is None:  # Detached a moment ago, by another stream's event of the same read.
            if type(event) is DataReceived:
                self.machine.credit(event.stream_id, event.flow_bytes)
            return
        try:
            match event:
                case DataReceived():
                    stream.on_data(event)
                case HeadersReceived():
                    if not self._answered:
                        self._answered = True
                        self._owner.answered(self)
                    stream.on_head(event)
                case TrailersReceived():
                    stream.on_trailers(event.fields)
                case InterimReceived():
                    stream.on_interim(event.fields)
                case _:
                    assert_never(event)
        except Exception as error:  # noqa: BLE001 - one exchange's defect; the connection's others live on.
            stream.crashed(error)

    # --- ending ---

    def on_sent(self) -> None:
        if self.retiring and self.idle:
            self.say_goodbye()

    def end_streams(self, error: ConnectionLost) -> None:
        self.retiring = True
        self._owner.forget(self)  # First: whoever tries again at once must not get this one.
        for stream in list(self._streams.values()):
            stream.on_lost(error)

    def linger(self) -> None:
        """Nobody's answer is lost by closing at once: all that was asked has been answered, or has failed."""
        if not self.closed and not self._ended:
            self._ended = True
            self._write_output()
            self.close()

    def on_handshake_late(self) -> None:
        self.lose("no TLS handshake in time (connect_timeout_s)")
