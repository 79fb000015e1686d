"""What the receiving and the sending half of one connection share, and the few steps that both take.

Owned by the connection; nothing outside this package sees it.
"""

from __future__ import annotations

from wire.http2.abuse import Abuse, AbuseLedger
from wire.http2.alarms import Alarm, Alarms
from wire.http2.config import Http2Config, Role
from wire.http2.events import Event, StreamReset
from wire.http2.flow import step_of
from wire.http2.frames import STREAM_ID_MAX, WINDOW_DEFAULT, ErrorCode, encode_goaway, encode_window_update
from wire.http2.send import Outbox, first_window
from wire.http2.settings import PeerSettings
from wire.http2.streams import AFTER_RECEIVED_END, CLOSED, Stream, StreamTable


class Session:
    __slots__ = (
        "_connection_step",
        "alarms",
        "config",
        "drain_ping",
        "drain_untimed",
        "first_settings",
        "goaway_received",
        "goaway_sent",
        "grant",
        "is_server",
        "last_accepted",
        "ledger",
        "now",
        "outbox",
        "peer",
        "pings",
        "settings_unacked",
        "streams",
        "windows",
    )

    def __init__(self, config: Http2Config, now: float) -> None:
        self.config = config
        self.is_server = config.role is Role.SERVER
        self.now = now
        self.alarms = Alarms()
        self.peer = PeerSettings()
        self.streams = StreamTable()
        self.windows = first_window()
        self.ledger = AbuseLedger(config.abuse, now)
        self.outbox = Outbox(config, self.streams, self.windows, self.ledger)
        # Until the peer has acknowledged our SETTINGS it goes by the default, where that is more.
        self.grant = max(config.window_bytes, WINDOW_DEFAULT)
        self._connection_step = step_of(config.connection_window_bytes)
        self.settings_unacked = 0
        self.first_settings = True  # The peer's first SETTINGS have not come.
        self.last_accepted = STREAM_ID_MAX  # Streams above it are not looked at: our GOAWAY said so.
        self.goaway_received = False
        self.goaway_sent = False  # One that names the last stream, not the warning of a drain.
        self.pings: list[bytes] = []  # Of our caller, not acknowledged.
        self.drain_ping: bytes | None = None  # The one that `drain` sent, until it is acknowledged.
        self.drain_untimed = False

    def credit_connection(self, flow_bytes: int) -> bool:
        """Whether the peer is told now."""
        increment = self.windows.give_back(flow_bytes, self._connection_step)
        if increment:
            self.outbox.control(encode_window_update(0, increment))
        return increment > 0

    def fail_stream(self, stream_id: int, code: ErrorCode, why: str, events: list[Event]) -> None:
        """The peer broke a rule on one stream: RST_STREAM, whatever has become of it meanwhile."""
        stream = self.streams.live.get(stream_id)
        if stream is not None:
            self.outbox.forget(stream)
            self.streams.reset_by_us(stream)
            events.append(StreamReset(stream_id, code, False, why))
        self.outbox.reset(stream_id, code)
        self.ledger.count(Abuse.OWN_RESETS, why)

    def is_untimed(self) -> bool:
        """A wait began in a call that had no `now`: `self.now` may be long past, and an alarm by it would be early."""
        return self.drain_untimed or (self.outbox.blocked and not self.alarms.is_set(Alarm.STALL))

    def settle_drain(self) -> None:
        """Whatever the client sent before it knew of the drain is here: name the last stream (section 6.8)."""
        self.drain_ping = None
        self.drain_untimed = False
        self.alarms.clear(Alarm.DRAIN)
        self.goaway(ErrorCode.NO_ERROR)

    def goaway(self, code: int, debug: bytes = b"") -> None:
        """Say which streams are still looked at. The number never rises again."""
        if self.is_server:
            self.last_accepted = min(self.last_accepted, self.streams.highest)
        last = self.last_accepted if self.is_server else 0  # A server opens none.
        self.goaway_sent = True
        self.outbox.ordered(encode_goaway(last, code, debug))

    def end_received(self, stream: Stream) -> None:
        state = AFTER_RECEIVED_END[stream.state]
        assert state is not None
        stream.state = state
        if state is CLOSED:
            self.ledger.streams_finished += 1
            self.streams.finish(stream)
