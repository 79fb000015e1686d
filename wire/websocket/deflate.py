"""permessage-deflate (RFC 7692): what is agreed in the handshake, and messages deflated and inflated by it.

`agree` picks an offer and gives the terms; `Deflater` and `Inflater` hold one direction of one connection each. An
inflater has a limit on what comes out and stops there, while inflating: a bomb costs its limit and no more.

By default neither side keeps its window from one message to the next: then an idle connection holds no zlib state
(300 KiB of it otherwise), and ten thousand of them cost nothing.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from typing import Final

import msgspec

from wire.limits import WEBSOCKET_DEFLATE_STREAMS_MAX
from wire.websocket.extensions import Offer

NAME: Final = b"permessage-deflate"
_WINDOW_BITS: Final = 15
_TAIL: Final = b"\x00\x00\xff\xff"  # What a sync flush ends with; it is not sent (RFC 7692 section 7.2.1).
_FLAGS: Final = frozenset({b"server_no_context_takeover", b"client_no_context_takeover"})
_BITS: Final = frozenset({b"server_max_window_bits", b"client_max_window_bits"})


class DeflateConfig(msgspec.Struct, frozen=True):
    """What we agree to. `level`: of zlib. Messages shorter than `message_bytes_min` go out as they are."""

    keep_our_window: bool = False
    keep_their_window: bool = False
    message_bytes_min: int = 1024
    level: int = 1


class DeflateTerms(msgspec.Struct, frozen=True):
    """What both sides do from now on, seen by the server."""

    config: DeflateConfig
    server_no_context_takeover: bool
    client_no_context_takeover: bool
    server_max_window_bits: int | None  # None: not spoken of, which is 15.

    def encode(self) -> bytes:
        """The element of the answer's `sec-websocket-extensions`."""
        parts = [NAME]
        if self.server_no_context_takeover:
            parts.append(b"server_no_context_takeover")
        if self.client_no_context_takeover:
            parts.append(b"client_no_context_takeover")
        if self.server_max_window_bits is not None:
            parts.append(b"server_max_window_bits=%d" % self.server_max_window_bits)
        return b"; ".join(parts)


class InflateFailed(Exception):
    """The bytes are no deflate stream that a message may have."""


class InflatedTooLong(Exception):
    """More came out than was allowed; how much more is not known."""


def agree(offers: Iterable[Offer], config: DeflateConfig) -> DeflateTerms | None:
    """The terms for the client's first offer that we can keep; None: no compression."""
    for offer in offers:
        if offer.name == NAME:
            terms = _terms(offer, config)
            if terms is not None:
                return terms
    return None


def _terms(offer: Offer, config: DeflateConfig) -> DeflateTerms | None:
    """None for an offer that is wrong (RFC 7692 section 7.1: decline it) or asks what zlib cannot do."""
    said = dict(offer.parameters)
    if len(said) != len(offer.parameters):
        return None
    server_bits: int | None = None
    for name, value in said.items():
        if name in _FLAGS:
            if value is not None:
                return None
        elif name in _BITS:
            bits = _bits(value)
            if name == b"server_max_window_bits":
                # zlib deflates raw with windows of 2^9 and more; with one of 2^8 it would silently use 2^9.
                if bits is None or bits < 9:
                    return None
                server_bits = bits
            elif value is not None and bits is None:
                return None
        else:
            return None
    return DeflateTerms(
        config=config,
        server_no_context_takeover=not config.keep_our_window or b"server_no_context_takeover" in said,
        client_no_context_takeover=not config.keep_their_window or b"client_no_context_takeover" in said,
        server_max_window_bits=server_bits,
    )


def _bits(value: bytes | None) -> int | None:
    return int(value) if value in (b"8", b"9", b"10", b"11", b"12", b"13", b"14", b"15") else None


class Deflater:
    """Our messages. Give each whole, in the order in which they are sent."""

    __slots__ = ("_stream", "_terms")

    def __init__(self, terms: DeflateTerms) -> None:
        self._terms = terms
        self._stream: zlib._Compress | None = None

    def deflate(self, data: bytes) -> bytes | None:
        """The payload to send compressed; None: it is not worth it, send the message as it is."""
        terms = self._terms
        if len(data) < terms.config.message_bytes_min:
            return None
        stream = self._stream
        if stream is None:
            stream = zlib.compressobj(
                terms.config.level, zlib.DEFLATED, -(terms.server_max_window_bits or _WINDOW_BITS)
            )
        # An empty message has one empty block of its own, of which the tail's first byte is left (section 7.2.3.6).
        packed = (stream.compress(data) + stream.flush(zlib.Z_SYNC_FLUSH))[: -len(_TAIL)] or b"\x00"
        if not terms.server_no_context_takeover:
            self._stream = stream
            return packed  # Also when it is longer: the peer's window must see what ours has seen.
        return packed if len(packed) < len(data) else None


class Inflater:
    """Their messages: `inflate` for each piece in order, `finish` at the end of each message."""

    __slots__ = ("_keep", "_stream", "_streams")

    def __init__(self, terms: DeflateTerms) -> None:
        self._keep = not terms.client_no_context_takeover
        self._stream: zlib._Decompress | None = None
        self._streams = 0  # Deflate streams that ended inside this message.

    def inflate(self, data: bytes, bytes_max: int) -> bytes:
        """Raises InflatedTooLong once more than `bytes_max` come out, InflateFailed."""
        out = b""
        while data:
            stream = self._stream
            if stream is None:
                # The largest window reads what any smaller one wrote.
                stream = self._stream = zlib.decompressobj(-_WINDOW_BITS)
            try:
                # One more than allowed, so that "exactly all" and "too many" differ; 0 would mean no limit.
                piece = stream.decompress(data, bytes_max - len(out) + 1)
            except zlib.error as error:
                raise InflateFailed(f"not deflated: {error}") from error
            out = out + piece if out else piece
            if len(out) > bytes_max:
                raise InflatedTooLong(f"more than {bytes_max} bytes")
            if not stream.eof:
                # Below its limit zlib keeps nothing back.
                assert not stream.unconsumed_tail
                break
            data = stream.unused_data
            self._restart()
        return out

    def finish(self, bytes_max: int) -> bytes:
        """The end of a message: what its last bytes still give."""
        # A stream that has just ended has no block open that the tail could close.
        out = b"" if self._stream is None and self._streams else self.inflate(_TAIL, bytes_max)
        self._streams = 0
        if not self._keep:
            self._stream = None
        return out

    def _restart(self) -> None:
        """A block with BFINAL has ended the stream, which a message may do (section 7.2.3.4): the next begins anew."""
        self._stream = None
        self._streams += 1
        if self._streams > WEBSOCKET_DEFLATE_STREAMS_MAX:
            # Each costs an allocation of 40 KiB for two bytes sent.
            raise InflateFailed(f"more than {WEBSOCKET_DEFLATE_STREAMS_MAX} deflate streams in one message")
