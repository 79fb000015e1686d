"""Messages in DATA: a flag, a length of four bytes, the message (grpc/grpc doc/PROTOCOL-HTTP2.md, "Length-Prefixed").

`MessageReader` finds messages however they are cut; the length is judged before a byte of the message is kept.
It gives the messages as they came: `inflate` undoes compression, under the same limit again, since the length on the
wire says nothing of what comes out. Each message is compressed by itself, with no memory of the ones before.

Faults of the peer are raised as RpcError with the code that answers them; the reader must not be fed again after one.
"""

from __future__ import annotations

import zlib
from typing import Final

from wire.grpc.encoding import Encoding
from wire.grpc.status import Code, RpcError
from wire.limits import GRPC_MESSAGE_BYTES_MAX

PREFIX_BYTES: Final = 5
PLAIN: Final = 0
COMPRESSED: Final = 1
# `wbits` of zlib: 31 a gzip wrapper, 15 a zlib one (which is what HTTP and gRPC call "deflate").
_WBITS: Final = {Encoding.GZIP: 31, Encoding.DEFLATE: 15}
# Speed counts for more than the last percents: a message lives for one hop.
_LEVEL: Final = 1


class MessageReader:
    """Incremental reader of one direction of one call."""

    __slots__ = ("_message_bytes_max", "_partial", "_wanted")

    def __init__(self, *, message_bytes_max: int = GRPC_MESSAGE_BYTES_MAX) -> None:
        self._message_bytes_max = message_bytes_max
        self._partial = bytearray()
        self._wanted = PREFIX_BYTES  # Length of `_partial` at which something further can be read.

    @property
    def pending_bytes(self) -> int:
        """Bytes of the unfinished message, its prefix included."""
        return len(self._partial)

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """The messages that `data` completes: (flag, message as it came). Raises RpcError."""
        partial = self._partial
        if partial:
            partial += data
            if len(partial) < self._wanted:
                return []
            with memoryview(partial) as view:
                messages, position = self._split(view)
            if position:
                del partial[:position]
            return messages
        messages, position = self._split(data)
        if position < len(data):
            partial += data[position:]
        return messages

    def _split(self, data: bytes | memoryview) -> tuple[list[tuple[int, bytes]], int]:
        """The whole messages of `data`, and where the unfinished one begins."""
        size = len(data)
        position = 0
        messages: list[tuple[int, bytes]] = []
        self._wanted = PREFIX_BYTES
        while size - position >= PREFIX_BYTES:
            flag = data[position]
            start = position + PREFIX_BYTES
            length = int.from_bytes(data[position + 1 : start], "big")
            if flag > COMPRESSED or length > self._message_bytes_max:
                raise self._refusal(flag, length)
            if start + length > size:
                self._wanted = PREFIX_BYTES + length
                break
            position = start + length
            messages.append((flag, bytes(data[start:position])))
        return messages, position

    def finish(self) -> None:
        """The stream ended here: raises if that cuts a message in two."""
        if self._partial:
            got = len(self._partial)
            what = "its 5-byte prefix" if got < PREFIX_BYTES else f"a message of {self._wanted - PREFIX_BYTES} bytes"
            raise RpcError(Code.INTERNAL, f"the stream ended inside {what}, after {got} bytes of prefix and message")

    def _refusal(self, flag: int, length: int) -> RpcError:
        if flag > COMPRESSED:
            return RpcError(Code.INTERNAL, f"message flag {flag:#04x}: only 0 (plain) and 1 (compressed) exist")
        return RpcError(
            Code.RESOURCE_EXHAUSTED,
            f"message of {length} bytes announced; at most {self._message_bytes_max} are taken",
        )


def inflate(message: bytes, encoding: Encoding, *, message_bytes_max: int = GRPC_MESSAGE_BYTES_MAX) -> bytes:
    """A message whose flag was 1. Never makes more than one byte beyond the limit. Raises RpcError."""
    if encoding is Encoding.IDENTITY:
        raise RpcError(Code.INTERNAL, "a message is flagged as compressed, but grpc-encoding names no compression")
    unpack = zlib.decompressobj(_WBITS[encoding])
    try:
        plain = unpack.decompress(message, message_bytes_max + 1)
    except zlib.error as error:
        raise RpcError(Code.INTERNAL, f"message of {len(message)} bytes is not {encoding.value}: {error}") from error
    if len(plain) > message_bytes_max:
        raise RpcError(
            Code.RESOURCE_EXHAUSTED,
            f"message of {len(message)} bytes inflates to more than {message_bytes_max}, the most that are taken",
        )
    if not unpack.eof or unpack.unused_data:
        what = "is cut short" if not unpack.eof else "has bytes behind its end"
        raise RpcError(Code.INTERNAL, f"message of {len(message)} bytes in {encoding.value} {what}")
    return plain


def encode_message(message: bytes, encoding: Encoding = Encoding.IDENTITY) -> bytes:
    """Prefix and message. Left plain where compression would not make it shorter."""
    if encoding is not Encoding.IDENTITY:
        packed = zlib.compress(message, _LEVEL, _WBITS[encoding])
        if len(packed) < len(message):
            return b"\x01" + len(packed).to_bytes(4, "big") + packed
    return b"\x00" + len(message).to_bytes(4, "big") + message
