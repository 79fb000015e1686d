"""A WebSocket that is open: messages in and out, pings by us, deadlines, the closing handshake.

The same over HTTP/1.1 and over a stream of HTTP/2; the `Transport` is what differs. Everything is a plain call of the
reactor or of the timers; what must be waited for is given to `hand_over`.

    state     left when                                                        the time it has
    OPEN      either side closes, the peer fails or is lost                    pings; a message begun must come whole
    CLOSING   we have said so: until the peer has, too                         close_timeout_s
    ENDED     both have, or the transport is gone: the transport ends itself   the transport's

Duties of the reader: `on_message` is a plain call that never blocks; what it sends on behalf of a source of bytes it
sends with that `source`, which is paused while the peer takes no more. `on_closing` is called exactly once, whoever
ends it and how, and from then on whatever is sent is dropped.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol, assert_never

from infermesh.net.asker import SlowCall
from infermesh.net.body_budget import BodyBudget
from infermesh.net.connection import BACKLOG_HIGH_BYTES
from infermesh.net.timers import Entry, Timers
from wire.websocket import (
    CloseCode,
    CloseReceived,
    DeflateConfig,
    DeflateTerms,
    Event,
    MessageReceived,
    PeerFailed,
    PingReceived,
    PongReceived,
    WebSocketLimits,
    WebSocketMachine,
)

# Our answers may wait for a peer that does not read, up to here; above it, nothing more is read of it either.
_ANSWERS_HIGH_BYTES: Final = 262_144
_PING_PAYLOAD: Final = b"infermesh"
_DEFLATE: Final = DeflateConfig()


@dataclass(frozen=True, slots=True, kw_only=True)
class WebSocketConfig:
    """What one WebSocket may take. Times in seconds."""

    message_bytes_max: int = 16 << 20
    message_timeout_s: float = 30.0  # For a message of no size; each byte received extends it by `1 / rate_min`.
    message_rate_min: float = 16_384.0  # Bytes per second below which a message is too slow.
    ping_interval_s: float = 20.0  # Of silence, after which we ask whether the peer lives.
    ping_timeout_s: float = 20.0  # For the answer.
    close_timeout_s: float = 5.0
    send_timeout_s: float = 30.0  # Without one byte of output taken by the peer.
    deflate: DeflateConfig | None = _DEFLATE  # None: permessage-deflate is never agreed to.
    bodies: BodyBudget = field(default_factory=BodyBudget)  # Of all that messages share with other bodies.


class Pausable(Protocol):
    """Where bytes that we send come from."""

    def pause(self) -> None: ...
    def resume(self) -> None: ...


class Transport(Protocol):
    """What carries the frames of one WebSocket.

    It calls `receive`; `on_flushed` when its backlog is gone or, having been above BACKLOG_HIGH_BYTES, is low again;
    and once `on_gone`, unless it was told to `end`.
    """

    timers: Timers

    @property
    def backlog_len(self) -> int:
        """Bytes that wait for the peer."""

    def send(self, data: bytes, source: Pausable | None = None) -> None: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...
    def hand_over(self, call: SlowCall) -> None: ...
    def end(self) -> None:
        """Both sides have closed: end in good order."""

    def lose(self, why: str) -> None: ...
    def count_fault(self, reason: str) -> None: ...


class WebSocketReader(Protocol):
    """What is behind a WebSocket."""

    def on_message(self, data: bytes, *, text: bool) -> None: ...
    def on_closing(self, code: int, reason: str) -> None:
        """Nothing can be said any more. `code`: who closed said it; 1006 when the connection broke."""


class _State(enum.IntEnum):
    OPEN = 0
    CLOSING = 1
    ENDED = 2


class WebSocket:
    __slots__ = (
        "_answer_ping",
        "_close_by",
        "_config",
        "_heard_at",
        "_held_bytes",
        "_machine",
        "_message_since",
        "_pinged_at",
        "_reading_paused",
        "_state",
        "_timers",
        "_transport",
        "deadline",
        "reader",
        "subprotocol",
        "timer",
    )

    def __init__(
        self,
        transport: Transport,
        config: WebSocketConfig,
        *,
        deflate: DeflateTerms | None,
        subprotocol: bytes | None = None,
    ) -> None:
        """`reader` is set, and `begin` called, before the first byte is received."""
        self.subprotocol = subprotocol
        self.reader: WebSocketReader | None = None
        self.deadline = math.inf
        self.timer: Entry | None = None
        self._transport = transport
        self._timers = transport.timers
        self._config = config
        self._machine = WebSocketMachine(WebSocketLimits(config.message_bytes_max), deflate)
        self._state = _State.OPEN
        self._heard_at = self._timers.now()
        self._pinged_at = math.inf  # inf: no answer is awaited.
        self._message_since = math.inf  # inf: no message is under way.
        self._close_by = math.inf
        self._held_bytes = 0  # Of `config.bodies`, for the message under way.
        self._reading_paused = False
        self._answer_ping: bytes | None = None

    def begin(self, reader: WebSocketReader) -> None:
        self.reader = reader
        self._arm()

    # --- out ---

    @property
    def closed(self) -> bool:
        """Nothing can be said any more."""
        return self._state is not _State.OPEN

    def send_text(self, data: bytes, source: Pausable | None = None) -> None:
        """A text message, valid UTF-8."""
        if self._state is _State.OPEN:
            self._transport.send(self._machine.text(data), source)

    def send_texts(self, messages: Sequence[bytes], source: Pausable | None = None) -> None:
        """Several text messages by one write."""
        if messages and self._state is _State.OPEN:
            self._transport.send(b"".join(map(self._machine.text, messages)), source)

    def send_binary(self, data: bytes, source: Pausable | None = None) -> None:
        if self._state is _State.OPEN:
            self._transport.send(self._machine.binary(data), source)

    def close(self, code: int, reason: str = "") -> None:
        """Say that we close, and wait for the peer to say it too. What was sent before arrives before."""
        if self._state is not _State.OPEN:
            return
        self._state = _State.CLOSING
        self._close_by = self._timers.now() + self._config.close_timeout_s
        self._transport.send(self._machine.close(code, reason))
        self._say_closing(code, reason)
        if self._state is _State.CLOSING:
            self._arm()

    def hand_over(self, call: SlowCall) -> None:
        """Run `call` in a task that ends with the connection."""
        self._transport.hand_over(call)

    def lose(self, why: str) -> None:
        """End it without a closing handshake."""
        self._transport.lose(why)

    # --- from the transport ---

    def receive(self, data: bytes) -> None:
        """Bytes of the peer; or none, to go on with those that are here."""
        if self._ended():
            return
        now = self._heard_at = self._timers.now()
        self._pinged_at = math.inf
        machine = self._machine
        begun_before = machine.in_message
        for event in machine.receive(data, now):
            self._on_event(event)
        if self._ended():
            return
        if not machine.in_message:
            self._message_since = math.inf
        elif not begun_before or self._message_since == math.inf:
            self._message_since = now
        self._hold(machine.message_len if machine.in_message else 0)
        if self._ended():
            return
        if machine.unread or self._transport.backlog_len > _ANSWERS_HIGH_BYTES:
            self._pause()
        self._arm()

    def on_flushed(self) -> None:
        """The peer has taken what waited for it."""
        payload, self._answer_ping = self._answer_ping, None
        if payload is not None and self._state is _State.OPEN:
            self._transport.send(self._machine.pong(payload))
        if self._reading_paused and not self._machine.unread:
            self._resume()

    def on_gone(self, why: str) -> None:
        """The transport has ended. Called once; late calls of ours find nothing to do."""
        was_open = self._state is _State.OPEN
        self._state = _State.ENDED
        self._timers.disarm(self)
        self._hold(0)
        if was_open:
            self._say_closing(CloseCode.ABNORMAL, why)

    # --- inside ---

    def _hold(self, size: int) -> None:
        """The message under way has `size` bytes by now."""
        bodies = self._config.bodies
        more = size - self._held_bytes
        if more <= 0:
            bodies.give(-more)
        elif not bodies.take(more):
            if self._state is _State.OPEN:
                self._transport.count_fault("bodies_in_flight")
                self.close(CloseCode.TRY_AGAIN_LATER, "this node keeps as many request bodies as it may")
            else:
                self._transport.lose("no room for a message that nobody reads")
            return
        self._held_bytes = size

    def _ended(self) -> bool:
        return self._state is _State.ENDED

    def _on_event(self, event: Event) -> None:
        match event:
            case MessageReceived(data, text):
                # Once we have said that we close, what the peer still says is for nobody.
                if self._state is _State.OPEN:
                    self._give(data, text=text)
            case PingReceived(payload):
                self._on_ping(payload)
            case PongReceived():
                pass  # It counts by having been heard.
            case CloseReceived(code, reason):
                self._finish(code, reason, answer=code)
            case PeerFailed(code, why):
                self._transport.count_fault(_fault_of(code))
                self._finish(code, why, answer=code, said=why)
            case _:
                assert_never(event)

    def _give(self, data: bytes, *, text: bool) -> None:
        assert self.reader is not None, "begin comes before the first byte"
        try:
            self.reader.on_message(data, text=text)
        except Exception as error:  # noqa: BLE001 - the defect of one message's reader ends its WebSocket, no more.
            self._timers.report(error)
            self.close(CloseCode.INTERNAL, "a defect on this node, see its log")

    def _on_ping(self, payload: bytes) -> None:
        if self._state is not _State.OPEN:
            return
        if self._transport.backlog_len > BACKLOG_HIGH_BYTES:
            # Of several only the last need be answered (RFC 6455 section 5.5.3).
            self._answer_ping = payload
        else:
            self._transport.send(self._machine.pong(payload))

    def _finish(self, code: int, reason: str, *, answer: int, said: str = "") -> None:
        """The peer has closed, or must be closed: say so if we have not, and end."""
        was_open = self._state is _State.OPEN
        self._state = _State.ENDED
        self._timers.disarm(self)
        self._hold(0)
        if was_open:
            self._transport.send(self._machine.close(answer, said))
            self._say_closing(code, reason)
        self._transport.end()

    def _say_closing(self, code: int, reason: str) -> None:
        if self.reader is not None:
            self.reader.on_closing(int(code), reason)

    # --- time ---

    def on_deadline(self, now: float) -> None:
        if now >= self._close_by:
            self._transport.lose(f"no close frame within {self._config.close_timeout_s} s of ours")
        elif self._machine.unread:
            self._read_on()
        else:
            if self._state is _State.OPEN:
                self._check_peer(now)
            self._arm()

    def _read_on(self) -> None:
        """Frames that an earlier call left lie here: others had their turn."""
        self.receive(b"")
        if self._reading_paused and not self._machine.unread and self._transport.backlog_len <= _ANSWERS_HIGH_BYTES:
            self._resume()

    def _check_peer(self, now: float) -> None:
        config = self._config
        if now >= self._message_by():
            self._transport.count_fault("body_timed_out")
            took_s = now - self._message_since
            self.close(
                CloseCode.POLICY, f"{self._machine.message_len} bytes of a message in {took_s:.0f} s are too few"
            )
        elif now >= self._pinged_at + config.ping_timeout_s:
            self._transport.count_fault("no_pong")
            self._transport.lose(f"nothing heard for {config.ping_timeout_s} s after a ping")
        elif self._pinged_at == math.inf and now >= self._heard_at + config.ping_interval_s:
            if self._reading_paused:
                self._heard_at = now  # We do not listen; the time for sending tells whether it lives.
                return
            self._pinged_at = now
            self._transport.send(self._machine.ping(_PING_PAYLOAD))

    def _message_by(self) -> float:
        config = self._config
        return self._message_since + config.message_timeout_s + self._machine.message_len / config.message_rate_min

    def _arm(self) -> None:
        if self._machine.unread:
            at = self._timers.now()
        elif self._state is _State.CLOSING:
            at = self._close_by
        elif self._state is _State.OPEN:
            config = self._config
            pinged = self._pinged_at != math.inf
            alive_by = self._pinged_at + config.ping_timeout_s if pinged else self._heard_at + config.ping_interval_s
            at = min(self._message_by(), alive_by)
        else:
            return
        self._timers.arm(self, at)

    def _pause(self) -> None:
        if not self._reading_paused:
            self._reading_paused = True
            self._transport.pause_reading()

    def _resume(self) -> None:
        self._reading_paused = False
        self._transport.resume_reading()


def _fault_of(code: int) -> str:
    """The label that a peer's failure is counted under."""
    match code:
        case CloseCode.TOO_BIG:
            return "body_oversized"
        case CloseCode.POLICY:
            return "flood"
        case _:
            return "malformed"
