"""One WebSocket's frames and messages, seen by its server: bytes in, events out, frames out. On wsproto's decoder.

`receive` takes bytes and gives at most `FRAMES_PER_CALL_MAX` frames' worth of events; while `unread` it wants to be
called again, with or without new bytes, once others have had their turn. It never raises for the peer's doing.

    what `receive` gives   what the caller owes
    MessageReceived        nothing
    PingReceived           `pong(payload)`; while its output waits, for the last one only (RFC 6455 section 5.5.3)
    CloseReceived          `close(code)`, then the end of the connection
    PeerFailed             `close(code, why)`, then the end of the connection

`text`, `binary`, `ping`, `pong` and `close` give the bytes to send; b"" once a close frame has gone out, after which
nothing may be said (section 5.5.1), and whoever still talks need not know.

Not here: the opening (`handshake`), time, and how bytes come and go.
"""

from __future__ import annotations

import math
from typing import Final

import msgspec
from wsproto.frame_protocol import Frame, FrameProtocol, Opcode, ParseFailed

from wire.limits import WEBSOCKET_CONTROL_FRAMES_MAX
from wire.websocket.bounds import Bounds
from wire.websocket.codes import CloseCode, may_be_sent
from wire.websocket.deflate import Deflater, DeflateTerms
from wire.websocket.events import CloseReceived, Event, MessageReceived, PeerFailed, PingReceived, PongReceived
from wire.websocket.frames import BINARY, CLOSE, CONTROL_BYTES_MAX, PING, PONG, TEXT, encode_frame

# Under two milliseconds of one core: 64 KiB of smallest frames would be 120 of them.
FRAMES_PER_CALL_MAX: Final = 128
# The same for bytes that were inflated: a read of 64 KiB may hold 64 MiB. A step of so many may inflate to 4 MiB, which
# takes about ten milliseconds, and then others have their turn.
_INFLATED_STEP_BYTES: Final = 4_096
_PAYLOAD_BYTES_PER_CALL_MAX: Final = 262_144
_CONTROL_WINDOW_S: Final = 30.0


class WebSocketLimits(msgspec.Struct, frozen=True):
    message_bytes_max: int = 16 << 20  # Inflated, and as it comes.


class WebSocketMachine:
    __slots__ = (
        "_bounds",
        "_closed_by_peer",
        "_closed_by_us",
        "_control_frames",
        "_control_since",
        "_deflater",
        "_in_message",
        "_message",
        "_protocol",
        "_text",
        "_waiting",
        "unread",
    )

    def __init__(self, limits: WebSocketLimits, deflate: DeflateTerms | None) -> None:
        self._bounds = Bounds(limits.message_bytes_max, deflate)
        self._protocol = FrameProtocol(False, [self._bounds])
        self._waiting = b""  # Not given to wsproto yet.
        self._deflater = Deflater(deflate) if deflate is not None else None
        self._message = bytearray()
        self._in_message = False
        self._text = False
        self._control_frames = 0
        self._control_since = -math.inf
        self._closed_by_us = False
        self._closed_by_peer = False  # Or failed: nothing more is read.
        self.unread = False

    @property
    def in_message(self) -> bool:
        """Part of a message is here, and its rest is still to come."""
        return self._in_message

    @property
    def message_len(self) -> int:
        """Bytes of the message under way, inflated."""
        return len(self._message)

    @property
    def closing(self) -> bool:
        """We have said that we close."""
        return self._closed_by_us

    @property
    def closed(self) -> bool:
        """Both sides have said so, or the peer failed and was told."""
        return self._closed_by_us and self._closed_by_peer

    # --- in ---

    def receive(self, data: bytes, now: float) -> list[Event]:
        self.unread = False
        if self._closed_by_peer:
            return []  # After a close frame whatever comes is thrown away (section 1.4).
        self._waiting = self._waiting + data if self._waiting else data
        events: list[Event] = []
        try:
            self._read(events, now)
        except ParseFailed as failed:
            events.append(self._failed(int(failed.code), self._bounds.why or str(failed)))
        return events

    def _read(self, events: list[Event], now: float) -> None:
        """Frame by frame, until nothing is left or others have waited long enough."""
        frames = payload_bytes = 0
        while True:
            for frame in self._protocol.received_frames():
                event = self._take(frame, now)
                if event is not None:
                    events.append(event)
                if isinstance(event, CloseReceived | PeerFailed):
                    return
                frames += 1
                payload_bytes += len(frame.payload)
                if frames == FRAMES_PER_CALL_MAX or payload_bytes > _PAYLOAD_BYTES_PER_CALL_MAX:
                    self.unread = True
                    return
            if not self._waiting:
                return
            step = _INFLATED_STEP_BYTES if self._deflater is not None else len(self._waiting)
            self._protocol.receive_bytes(self._waiting[:step])
            self._waiting = self._waiting[step:]

    def _take(self, frame: Frame, now: float) -> Event | None:
        payload = frame.payload
        match frame.opcode:
            case Opcode.TEXT | Opcode.BINARY:
                return self._take_piece(frame)
            case Opcode.PING | Opcode.PONG:
                assert isinstance(payload, bytes)
                if self._too_many_control_frames(now):
                    text = f"more than {WEBSOCKET_CONTROL_FRAMES_MAX} pings and pongs in {_CONTROL_WINDOW_S:.0f} s"
                    return self._failed(CloseCode.POLICY, text)
                return PingReceived(payload) if frame.opcode is Opcode.PING else PongReceived(payload)
            case Opcode.CLOSE:
                assert isinstance(payload, tuple)
                self._end_reading()
                return CloseReceived(int(payload[0]), payload[1])
            case _:
                raise AssertionError(f"wsproto gives no frame of its own with {frame.opcode}")

    def _take_piece(self, frame: Frame) -> Event | None:
        piece = frame.payload
        if isinstance(piece, str):
            # wsproto has decoded it to check it. As bytes again: kept as text it may take four times its length.
            self._text = True
            self._message += piece.encode()
        else:
            assert isinstance(piece, bytes)
            self._text = False
            self._message += piece
        self._in_message = not frame.message_finished
        if self._in_message:
            return None
        message, self._message = bytes(self._message), bytearray()
        return MessageReceived(message, self._text)

    def _too_many_control_frames(self, now: float) -> bool:
        if now - self._control_since > _CONTROL_WINDOW_S:
            self._control_since = now
            self._control_frames = 0
        self._control_frames += 1
        return self._control_frames > WEBSOCKET_CONTROL_FRAMES_MAX

    def _failed(self, code: int, why: str) -> PeerFailed:
        self._end_reading()
        return PeerFailed(int(code), why)

    def _end_reading(self) -> None:
        self._closed_by_peer = True
        self._in_message = False
        self._message = bytearray()
        self._waiting = b""

    # --- out ---

    def text(self, data: bytes) -> bytes:
        """A text message. The caller vouches for its UTF-8."""
        return self._frame(TEXT, data)

    def binary(self, data: bytes) -> bytes:
        return self._frame(BINARY, data)

    def ping(self, payload: bytes = b"") -> bytes:
        return b"" if self._closed_by_us else encode_frame(PING, payload)

    def pong(self, payload: bytes) -> bytes:
        return b"" if self._closed_by_us else encode_frame(PONG, payload)

    def close(self, code: int, reason: str = "") -> bytes:
        """Say that we close, once. The reason is cut to what a control frame holds."""
        if self._closed_by_us:
            return b""
        self._closed_by_us = True
        if code == CloseCode.NO_CODE:
            return encode_frame(CLOSE, b"")
        assert may_be_sent(code), f"close code {code} may not be on the wire"
        text = reason.encode("utf-8", "replace")[: CONTROL_BYTES_MAX - 2].decode("utf-8", "ignore")
        return encode_frame(CLOSE, code.to_bytes(2, "big") + text.encode())

    def _frame(self, opcode: int, data: bytes) -> bytes:
        if self._closed_by_us:
            return b""
        if self._deflater is not None:
            packed = self._deflater.deflate(data)
            if packed is not None:
                return encode_frame(opcode, packed, compressed=True)
        return encode_frame(opcode, data)
