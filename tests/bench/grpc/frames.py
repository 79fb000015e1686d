"""HTTP/2 frames as bytes, made here and not by the product: the yardstick must not bend with what it measures.

Values only. Header blocks are written by hand (RFC 7541): the first on a connection puts its fields into the dynamic
table, the later ones are indexes alone, as any real client or server sends them.
"""

from __future__ import annotations

from typing import Final

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM, ACK, END_HEADERS = 0x1, 0x1, 0x4
INITIAL_WINDOW_SIZE, MAX_CONCURRENT_STREAMS = 4, 3
WINDOW_DEFAULT: Final = 65_535
WINDOW_WIDE: Final = 1 << 24

# gRPC: one flag byte, four bytes of length (not compressed).
STREAM_MARK: Final = b"bench-stream:"
MESSAGE_BYTES: Final = 1024
TOKEN_BYTES: Final = 200


def frame(kind: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream_id.to_bytes(4, "big") + payload


def settings(**values: int) -> bytes:
    """A SETTINGS frame; the names are those of this module, in lower case."""
    numbers = {"initial_window_size": INITIAL_WINDOW_SIZE, "max_concurrent_streams": MAX_CONCURRENT_STREAMS}
    return frame(
        SETTINGS,
        0,
        0,
        b"".join(numbers[name].to_bytes(2, "big") + value.to_bytes(4, "big") for name, value in values.items()),
    )


def window_update(stream_id: int, size: int) -> bytes:
    return frame(WINDOW_UPDATE, 0, stream_id, size.to_bytes(4, "big"))


def message(payload: bytes) -> bytes:
    return b"\0" + len(payload).to_bytes(4, "big") + payload


def _literal(name: bytes, value: bytes) -> bytes:
    """A literal with incremental indexing and a new name; lengths below 127."""
    return b"\x40" + bytes((len(name),)) + name + bytes((len(value),)) + value


# :status 200 is in the static table; the other two go into the dynamic one, in this order.
HEAD_FIRST: Final = (
    b"\x88" + _literal(b"content-type", b"application/grpc") + _literal(b"grpc-accept-encoding", b"identity, gzip")
)
HEAD_BEFORE_TRAILERS: Final = b"\x88\xbf\xbe"  # 63 and 62: no trailers were ever sent on this connection.
HEAD_AFTER_TRAILERS: Final = b"\x88\xc0\xbf"  # 64 and 63.
TRAILERS_FIRST: Final = _literal(b"grpc-status", b"0")
TRAILERS: Final = b"\xbe"  # 62.


def _field(number: int, payload: bytes) -> bytes:
    """A length-delimited protobuf field."""
    size, varint = len(payload), b""
    while size > 0x7F:
        varint += bytes((0x80 | size & 0x7F,))
        size >>= 7
    return bytes((number << 3 | 2,)) + varint + bytes((size,)) + payload


def infer_request(model: bytes, *, tokens: int = 0) -> bytes:
    """An inference.ModelInferRequest of about 1 KB: model_name, id, and raw_input_contents to fill it.

    `tokens` above 0 asks the fake backend for a stream of so many messages.
    """
    name = STREAM_MARK + b"%d:" % tokens if tokens else b"bench"
    head = _field(1, model) + _field(3, name)
    return message(head + _field(7, b"\0" * (MESSAGE_BYTES - len(head) - 8)))


UNARY_MESSAGE: Final = message(_field(1, b"tiny") + _field(3, b"bench") + _field(6, b"\1" * (MESSAGE_BYTES - 24)))
TOKEN_MESSAGE: Final = message(_field(2, _field(1, b"tiny") + _field(6, b"\1" * (TOKEN_BYTES - 20))))
