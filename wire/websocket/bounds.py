"""What wsproto does not bound, as an extension of its frame decoder: lengths before they are read, and inflation.

wsproto asks its extensions at each frame's header, before one byte of its payload, and hands them each piece of
payload, unmasked. So a frame that declares 16 GiB is refused when its header is here, a compressed one is inflated no
further than a message may go, and frames that are nearly nothing but header are counted.

wsproto's own permessage-deflate is not used: it inflates without a limit, and forgets that a message is compressed
when a ping comes between its frames.
"""

from __future__ import annotations

from wsproto.extensions import Extension
from wsproto.frame_protocol import CloseReason, FrameDecoder, FrameProtocol, Opcode, RsvBits

from wire.limits import WEBSOCKET_SMALL_FRAME_BYTES, WEBSOCKET_SMALL_FRAMES_MAX
from wire.websocket.deflate import DeflateTerms, InflatedTooLong, InflateFailed, Inflater


class Bounds(Extension):
    """One connection's. `why`: the reason of the last refusal, for whoever reads the close frame."""

    name = "bounds"

    def __init__(self, message_bytes_max: int, deflate: DeflateTerms | None) -> None:
        self.why = ""
        self._bytes_max = message_bytes_max
        self._inflater = Inflater(deflate) if deflate is not None else None
        self._control = False  # The frame under way is a control frame; it may stand inside a message.
        self._frame_len = 0
        self._begun = False  # A message is under way.
        self._compressed = False  # And it came with RSV1.
        self._wire_len = 0  # Of the message, as it came.
        self._message_len = 0  # As it is read.
        self._small_frames = 0

    def enabled(self) -> bool:
        return True

    def offer(self) -> bool | str:
        return False

    def frame_inbound_header(
        self, proto: FrameDecoder | FrameProtocol, opcode: Opcode, rsv: RsvBits, payload_length: int
    ) -> CloseReason | RsvBits:
        """wsproto may ask twice about one header, when its masking key has not come: nothing is counted here."""
        self._control = opcode.iscontrol()
        self._frame_len = payload_length
        inflates = self._inflater is not None
        if self._control:
            return RsvBits(False, False, False)
        if self._begun and opcode is not Opcode.CONTINUATION:
            # wsproto says so too, but behind a piece of payload: which fault is told would depend on the cut.
            return self._refuse(CloseReason.PROTOCOL_ERROR, "a new message inside another")
        if not self._begun:
            self._compressed = rsv.rsv1 and inflates
        # What does not deflate gets longer by it, by five bytes in each block of 16 KiB.
        room = self._bytes_max + (self._bytes_max >> 10) + 64 if self._compressed else self._bytes_max
        if payload_length > room - self._wire_len:
            return self._refuse(
                CloseReason.MESSAGE_TOO_BIG,
                f"a frame of {payload_length} bytes makes the message longer than {self._bytes_max} bytes",
            )
        # Only a message's first frame says that it is compressed (RFC 7692 section 6.1).
        return RsvBits(inflates and not self._begun and opcode is not Opcode.CONTINUATION, False, False)

    def frame_inbound_payload_data(self, proto: FrameDecoder | FrameProtocol, data: bytes) -> bytes | CloseReason:
        if self._control:
            return data
        self._begun = True
        self._wire_len += len(data)
        if self._compressed:
            return self._inflate(data)
        self._message_len += len(data)
        return data

    def frame_inbound_complete(self, proto: FrameDecoder | FrameProtocol, fin: object) -> bytes | CloseReason | None:
        """`fin`: a truth value, given by position."""
        if self._control:
            return None
        if not fin and self._frame_len < WEBSOCKET_SMALL_FRAME_BYTES:
            self._small_frames += 1
            if self._small_frames > WEBSOCKET_SMALL_FRAMES_MAX:
                text = f"more than {WEBSOCKET_SMALL_FRAMES_MAX} frames below {WEBSOCKET_SMALL_FRAME_BYTES} bytes"
                return self._refuse(CloseReason.POLICY_VIOLATION, f"{text} in one message")
        self._begun = True  # An empty frame has no payload that would have said so.
        last: bytes | CloseReason | None = None
        if fin:
            if self._compressed:
                last = self._inflate(None)
            self._begun = self._compressed = False
            self._wire_len = self._message_len = self._small_frames = 0
        return last

    def _inflate(self, data: bytes | None) -> bytes | CloseReason:
        inflater = self._inflater
        assert inflater is not None
        room = self._bytes_max - self._message_len
        try:
            piece = inflater.finish(room) if data is None else inflater.inflate(data, room)
        except InflatedTooLong:
            return self._refuse(CloseReason.MESSAGE_TOO_BIG, f"inflated, the message exceeds {self._bytes_max} bytes")
        except InflateFailed as error:
            return self._refuse(CloseReason.INVALID_FRAME_PAYLOAD_DATA, str(error))
        self._message_len += len(piece)
        return piece

    def _refuse(self, code: CloseReason, why: str) -> CloseReason:
        self.why = why
        return code
