"""Length-delimited messages: each is preceded by its length as a base-128 varint, and nothing else.

The framing of protobuf's `writeDelimitedTo`. What the bytes of a message mean is the caller's affair. The
decoder takes bytes in whatever pieces the network gives, keeps at most one unfinished message of
`message_bytes_max` bytes, and raises RemoteProtocolError at the first length that is too large or too long.
After an error it must not be fed again: where the next message begins is no longer known.
"""

from __future__ import annotations

from typing import Final

from wire.errors import LocalProtocolError, RemoteProtocolError
from wire.limits import STATE_MESSAGE_BYTES_MAX

# Five bytes hold every 32-bit length; a longer prefix exists only to keep a decoder busy.
_PREFIX_BYTES_MAX: Final = 5


def encode_delimited(message: bytes, *, message_bytes_max: int = STATE_MESSAGE_BYTES_MAX) -> bytes:
    length = len(message)
    if length > message_bytes_max:
        raise LocalProtocolError(f"message of {length} bytes is over the limit of {message_bytes_max}")
    if length < 0x80:
        return bytes((length,)) + message
    prefix = bytearray()
    while length >= 0x80:
        prefix.append(length & 0x7F | 0x80)
        length >>= 7
    prefix.append(length)
    return bytes(prefix) + message


class DelimitedDecoder:
    """Incremental decoder of one stream. `feed` bytes as they come; `finish` when the stream has ended."""

    __slots__ = ("_buffer", "_message_bytes_max")

    def __init__(self, *, message_bytes_max: int = STATE_MESSAGE_BYTES_MAX) -> None:
        assert message_bytes_max > 0
        self._buffer = b""
        self._message_bytes_max = message_bytes_max

    @property
    def pending_bytes(self) -> int:
        """Bytes of the unfinished message, its length prefix included."""
        return len(self._buffer)

    def feed(self, piece: bytes) -> list[bytes]:
        """The messages that `piece` completes, in order."""
        buffer = self._buffer + piece if self._buffer else piece
        messages: list[bytes] = []
        position = 0
        while True:
            start, length = self._prefix(buffer, position)
            if start < 0 or len(buffer) - start < length:
                break
            messages.append(buffer[start : start + length])
            position = start + length
        self._buffer = buffer[position:]
        return messages

    def finish(self) -> None:
        """The stream ended here: raises if that cuts a message in two."""
        if self._buffer:
            raise RemoteProtocolError(f"stream ended inside a message, after {len(self._buffer)} bytes of it")

    def _prefix(self, buffer: bytes, position: int) -> tuple[int, int]:
        """Where the message at `position` starts and how long it is; a negative start: not known yet."""
        length = 0
        for index in range(_PREFIX_BYTES_MAX):
            if position + index >= len(buffer):
                return -1, 0
            byte = buffer[position + index]
            length |= (byte & 0x7F) << 7 * index
            # Checked at each byte: a refusal must not depend on how the network cut the stream.
            if length > self._message_bytes_max:
                raise RemoteProtocolError(
                    f"message of at least {length} bytes announced, the limit is {self._message_bytes_max}"
                )
            if byte < 0x80:
                return position + index + 1, length
        raise RemoteProtocolError(f"message length is not ended after {_PREFIX_BYTES_MAX} bytes")
