"""Follow a body and find its exact end, so that a relay may pass the bytes on as they are.

Every body has `feed(data) -> int`: how many of these bytes belong to it. Fewer than all means the rest is
the next message. `done` says that it has ended. Feeding stops at `done`; an end of input before `done` is a
truncated message, whatever was relayed so far. `ChunkedBody` can also hand out the payload, for bodies that
must be read or framed anew. Chunk extensions are followed and bounded, never interpreted.
"""

from __future__ import annotations

import re
from typing import Final

from wire.errors import RemoteProtocolError
from wire.http1.head import CHUNKED, UNTIL_CLOSE
from wire.limits import (
    HTTP1_CHUNK_EXTENSION_BYTES_TOTAL_MAX,
    HTTP1_CHUNK_LINE_BYTES_MAX,
    HTTP1_HEADERS_MAX,
    HTTP1_TRAILER_BYTES_MAX,
)

# RFC 9112 section 7.1: 1*HEXDIG, then extensions. int(x, 16) would also take "+1", "0x1", "1_0" and spaces.
_SIZE_LINE: Final = re.compile(rb"([0-9A-Fa-f]{1,15})(?:[ \t]*;[^\r\n\x00]*)?")
# RFC 9110 section 5: a token and visible bytes. The line is relayed as it came, so it must read alike everywhere.
_TRAILER_LINE: Final = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[\t\x20-\x7e\x80-\xff]*")
# RFC 9110 section 6.5.1: never in a trailer. A reader that merges it into the head would find another end.
_NEVER_TRAILERS: Final = frozenset({b"transfer-encoding", b"content-length", b"host"})
_SIZES_KEPT_MAX: Final = 4096
_sizes: dict[bytes, int] = {}  # Size lines seen before: streams repeat a few hundred of them for ever.


class NoBody:
    """A message without a body: done before the first byte."""

    __slots__ = ()
    done = True
    missing_bytes = 0

    def feed(self, data: bytes) -> int:
        return 0


class LengthBody:
    __slots__ = ("done", "missing_bytes")

    def __init__(self, length: int) -> None:
        self.missing_bytes = length
        self.done = length == 0

    def feed(self, data: bytes) -> int:
        size = len(data)
        if size < self.missing_bytes:
            self.missing_bytes -= size
            return size
        size, self.missing_bytes, self.done = self.missing_bytes, 0, True
        return size


class UntilCloseBody:
    """Ends with the connection; `feed` takes everything and the caller sets `done` at the end of input."""

    __slots__ = ("done",)
    missing_bytes = 0

    def __init__(self) -> None:
        self.done = False

    def feed(self, data: bytes) -> int:
        return len(data)


class ChunkedBody:
    """Chunked transfer coding (RFC 9112 section 7.1), strict: CRLF ends every line and every chunk."""

    __slots__ = (
        "_extension_bytes",
        "_line",
        "_trailer_bytes",
        "_trailer_lines",
        "done",
        "in_trailer",
        "missing_bytes",
        "payload",
    )

    def __init__(self, *, keep_payload: bool = False) -> None:
        self.done = False
        self.missing_bytes = 0  # Of the chunk under way, its final CRLF included; 0 between chunks.
        self.in_trailer = False
        self.payload: list[bytes] | None = [] if keep_payload else None
        self._line = b""  # The start of a size or trailer line whose end has not come.
        self._trailer_bytes = 0
        self._trailer_lines = 0
        self._extension_bytes = 0

    @property
    def in_line(self) -> bool:
        """Whether the bytes so far end inside a size or trailer line."""
        return bool(self._line)

    def take_payload(self) -> bytes:
        """The payload since the last call. Only where it is kept."""
        assert self.payload is not None
        taken = b"".join(self.payload)
        self.payload.clear()
        return taken

    def feed(self, data: bytes) -> int:
        at = 0
        size = len(data)
        while at < size:
            if self.missing_bytes:
                at = self._through_chunk(data, at)
            elif self.in_trailer or self._line:
                at = self._through_line(data, at)
                if self.done:
                    return at
            else:
                end = data.find(b"\r\n", at, at + HTTP1_CHUNK_LINE_BYTES_MAX)
                if end < 0:
                    at = self._through_line(data, at)
                    continue
                length = _sizes.get(data[at:end], -1)
                if length < 0:
                    length = self._chunk_size(data[at:end])
                if length == 0:
                    self.in_trailer = True
                    at = end + 2
                    continue
                after = end + 2 + length
                if after + 2 <= size:  # The common case: the whole chunk is here.
                    if data[after : after + 2] != b"\r\n":
                        raise RemoteProtocolError("chunk longer than its stated size")
                    if self.payload is not None:
                        self.payload.append(data[end + 2 : after])
                    at = after + 2
                else:
                    self.missing_bytes = length + 2
                    at = end + 2
        return at

    def _through_chunk(self, data: bytes, at: int) -> int:
        take = min(self.missing_bytes, len(data) - at)
        # The last two of the missing bytes are the chunk's CRLF.
        content = max(0, min(take, self.missing_bytes - 2))
        if self.payload is not None and content:
            self.payload.append(data[at : at + content])
        for offset in range(content, take):
            expected = 0x0D if self.missing_bytes - offset == 2 else 0x0A
            if data[at + offset] != expected:
                raise RemoteProtocolError("chunk longer than its stated size")
        self.missing_bytes -= take
        return at + take

    def _through_line(self, data: bytes, at: int) -> int:
        """Gather one line that does not lie whole in one read, or one line of the trailer."""
        bound = HTTP1_TRAILER_BYTES_MAX if self.in_trailer else HTTP1_CHUNK_LINE_BYTES_MAX
        newline = data.find(b"\n", at)
        stop = newline + 1 if newline >= 0 else len(data)
        self._line += data[at:stop]
        if len(self._line) + self._trailer_bytes > bound:
            what = "trailer" if self.in_trailer else "chunk size line"
            raise RemoteProtocolError(f"{what} of more than {bound} bytes")
        if newline < 0:
            return stop
        line, self._line = self._line, b""
        if line[-2:] != b"\r\n":
            raise RemoteProtocolError("line of a chunked body ends without CR")
        if self.in_trailer:
            self._trailer_line(line[:-2])
        else:
            length = self._chunk_size(line[:-2])
            if length:
                self.missing_bytes = length + 2
            else:
                self.in_trailer = True
        return stop

    def _trailer_line(self, line: bytes) -> None:
        if not line:
            self.done = True
            return
        self._trailer_bytes += len(line) + 2
        self._trailer_lines += 1
        if self._trailer_lines > HTTP1_HEADERS_MAX:
            raise RemoteProtocolError(f"more than {HTTP1_HEADERS_MAX} trailer fields")
        match = _TRAILER_LINE.fullmatch(line)
        if match is None:
            raise RemoteProtocolError("malformed trailer field")
        if match[1].lower() in _NEVER_TRAILERS:
            raise RemoteProtocolError("trailer field that frames or routes a message")

    def _chunk_size(self, line: bytes) -> int:
        match = _SIZE_LINE.fullmatch(line)
        if match is None:
            raise RemoteProtocolError("malformed chunk size line")
        digits = match[1]
        self._extension_bytes += len(line) - len(digits)
        if self._extension_bytes > HTTP1_CHUNK_EXTENSION_BYTES_TOTAL_MAX:
            raise RemoteProtocolError(
                f"chunk extensions of more than {HTTP1_CHUNK_EXTENSION_BYTES_TOTAL_MAX} bytes in one body"
            )
        length = int(digits, 16)
        if len(_sizes) < _SIZES_KEPT_MAX and len(line) == len(digits) <= 8:
            _sizes[line] = length
        return length


Body = NoBody | LengthBody | UntilCloseBody | ChunkedBody


def body_of(framing: int, *, keep_payload: bool = False) -> Body:
    """The body that follows a head with this `framing`."""
    if framing == CHUNKED:
        return ChunkedBody(keep_payload=keep_payload)
    if framing == UNTIL_CLOSE:
        return UntilCloseBody()
    return LengthBody(framing) if framing else NoBody()
