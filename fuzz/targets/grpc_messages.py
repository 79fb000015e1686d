"""Invariant: gRPC messages in DATA are the same however cut, never larger than allowed, plain or inflated, or RpcError.

The first byte of the input chooses the compression. Differential: `zlib` without a limit, for what was inflated.
Round trip: encoded again, plain and compressed, each message is read as itself.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Hashable, Iterator, Sequence

from fuzz.target import Target, Violation, agreed, demand
from wire.grpc.encoding import Encoding
from wire.grpc.framing import COMPRESSED, MessageReader, encode_message, inflate
from wire.grpc.status import Code, RpcError

MESSAGE_BYTES_MAX = 600
_ENCODINGS = (Encoding.IDENTITY, Encoding.GZIP, Encoding.DEFLATE)
_WBITS = {Encoding.GZIP: 31, Encoding.DEFLATE: 15}
_CODES = (Code.INTERNAL, Code.RESOURCE_EXHAUSTED)

Outcome = tuple[Code | None, list[tuple[int, bytes]], bool]


def read(pieces: Sequence[bytes]) -> Outcome:
    """(refused with, messages, whether one was cut in two). Messages before a refusal may come or not, by the cut."""
    reader = MessageReader(message_bytes_max=MESSAGE_BYTES_MAX)
    messages: list[tuple[int, bytes]] = []
    for piece in pieces:
        try:
            messages += reader.feed(piece)
        except RpcError as error:
            return error.code, [], False
        demand(reader.pending_bytes <= MESSAGE_BYTES_MAX + 5, "more kept than one message", reader.pending_bytes)
    try:
        reader.finish()
    except RpcError as error:
        demand(error.code is Code.INTERNAL, "cut in two, another code", error)
        return None, messages, True
    return None, messages, False


def check(data: bytes) -> Hashable:
    encoding = _ENCODINGS[data[0] % 3] if data else Encoding.IDENTITY
    refused, messages, cut = agreed(data[1:], read)
    if refused is not None:
        demand(refused in _CODES, "another code", refused)
        return refused
    labels = set()
    for flag, message in messages:
        demand(len(message) <= MESSAGE_BYTES_MAX, "a message over the limit", len(message))
        plain = _inflated(message, encoding) if flag == COMPRESSED else message
        labels.add((flag, plain is not None))
        if plain is not None:
            _survives_writing(plain)
    return frozenset(labels), cut, encoding


def _inflated(message: bytes, encoding: Encoding) -> bytes | None:
    try:
        plain = inflate(message, encoding, message_bytes_max=MESSAGE_BYTES_MAX)
    except RpcError as error:
        demand(error.code in _CODES, "another code", error)
        if error.code is Code.RESOURCE_EXHAUSTED:
            stream = zlib.decompressobj(_WBITS[encoding])
            demand(
                len(stream.decompress(message, MESSAGE_BYTES_MAX + 1)) > MESSAGE_BYTES_MAX,
                "refused below the limit",
                message,
            )
        return None
    demand(len(plain) <= MESSAGE_BYTES_MAX, "inflated over the limit", len(plain))
    try:
        expected = zlib.decompress(message, _WBITS[encoding])
    except zlib.error as error:
        raise Violation(f"inflated by us, not by zlib: {error}") from error
    demand(plain == expected, "inflated to something else", plain, expected)
    return plain


def _survives_writing(plain: bytes) -> None:
    for encoding in _ENCODINGS:
        (code, messages, cut) = read([encode_message(plain, encoding)])
        demand(code is None and not cut and len(messages) == 1, "written again, not one message", code, messages)
        flag, message = messages[0]
        if flag == COMPRESSED:
            message = inflate(message, encoding, message_bytes_max=MESSAGE_BYTES_MAX)
        demand(message == plain, "written again, another message", message, plain)


def changed_message(data: bytes, rng: random.Random) -> bytes:
    """A message put in, plain or compressed, its prefix right most of the time."""
    body = rng.choice((b"", b"x", b"a" * rng.choice((599, 600, 601, 5000)), rng.randbytes(20), data[6:40]))
    encoding = rng.choice(_ENCODINGS)
    flag = 0
    if encoding is not Encoding.IDENTITY:
        stream = zlib.compressobj(9, zlib.DEFLATED, _WBITS[encoding])
        body, flag = stream.compress(body) + stream.flush(), 1
        if rng.random() < 0.3:
            at = rng.randrange(len(body))
            body = body[:at] + bytes([rng.randrange(256)]) + body[at + rng.randint(0, 2) :]
    if rng.random() < 0.1:
        body = body * 2
    length = len(body) + (rng.choice((-1, 1, 1 << 20)) if rng.random() < 0.1 else 0)
    message = bytes([flag]) + max(0, length).to_bytes(4, "big") + body
    first = bytes([_ENCODINGS.index(encoding)])
    return first + (message + data[1:] if rng.random() < 0.5 else data[1:] + message)


def seeds() -> Iterator[bytes]:
    yield b"\x00" + encode_message(b"hello") + encode_message(b"")
    yield b"\x01" + encode_message(b"a" * 500, Encoding.GZIP)
    yield b"\x02" + encode_message(b"a" * 500, Encoding.DEFLATE) + encode_message(b"b")
    yield b"\x01\x01\x00\x00\x00\x0a" + zlib.compress(b"a" * 100_000, 9, 31)[:10]
    bomb = zlib.compress(b"\x00" * 100_000, 9, 31)
    yield b"\x01\x01" + len(bomb).to_bytes(4, "big") + bomb
    yield b"\x00\x02\x00\x00\x00\x00"
    yield b"\x00\x00\xff\xff\xff\xff"


TARGET = Target(
    check=check,
    seeds=seeds,
    covers=("wire.grpc.framing",),
    words=(b"\x00\x00\x00\x00\x00", b"\x01\x00\x00\x00\x0a", b"\x1f\x8b\x08", b"\x78\x01", b"\x00\x00\x00\x02\x58"),
    mutate=changed_message,
    input_bytes_max=1500,
)
