"""Invariant: the model that a gRPC call names is the same however much has come, or it is unnamed.

The first byte of the input chooses where the name stands and the compression. What is found in part of the message
is found in all of it; nothing but `Unnamed` is raised. Differential: protobuf reads the same first field.
"""

from __future__ import annotations

import zlib
from collections.abc import Hashable, Iterator

from google.protobuf.message import DecodeError

from fuzz.target import Target, demand
from infermesh.planes.data.grpc_models import PEEK_BYTES_MAX, Unnamed, next_look, read_model
from wire.grpc import Encoding, encode_message
from wire.proto.grpc.health.v1.health_pb2 import HealthCheckRequest

_PATHS: tuple[tuple[int, ...], ...] = ((1,), (1, 1))
_ENCODINGS = (b"gzip", b"deflate", None)


def read(data: bytes, at: tuple[int, ...], encoding: bytes | None, *, whole: bool) -> str | Unnamed | None:
    try:
        return read_model(data, at, encoding, whole=whole)
    except Unnamed as error:
        return error


def check(data: bytes) -> Hashable:
    first = data[0] if data else 0
    data = data[1:]
    at, encoding = _PATHS[first & 1], _ENCODINGS[(first >> 1) % 3]
    whole = read(data, at, encoding, whole=True)
    demand(whole is not None, "no answer although nothing more comes")
    if isinstance(whole, str):
        demand(len(whole) <= PEEK_BYTES_MAX, "a name longer than what is looked at", len(whole))
    look_at = 0
    for size in range(len(data)):
        if size < look_at:
            continue
        found = read(data[:size], at, encoding, whole=False)
        look_at = next_look(data[:size])
        if found is not None:  # Named or refused: nobody looks again.
            same = isinstance(found, Unnamed) if isinstance(whole, Unnamed) else found == whole
            # What is compressed may break behind the name; that is for the runtime to say.
            same = same or (data[:1] == b"\x01" and isinstance(whole, Unnamed))
            demand(same, "found in part what is not in the whole", size, found, whole)
            break
    if isinstance(whole, str) and at == (1,) and data[:1] == b"\x00":
        _as_protobuf_reads(data, whole)
    return isinstance(whole, str), str(whole)[:40] if isinstance(whole, Unnamed) else "", first & 1


def _as_protobuf_reads(data: bytes, name: str) -> None:
    length = int.from_bytes(data[1:5], "big")
    message = data[5 : 5 + length]
    if len(message) < length:
        return
    try:
        theirs = HealthCheckRequest.FromString(message).service
    except DecodeError:
        return  # It judges all of the message, and its UTF-8.
    # A field that comes twice counts by its last place there, and by its first here.
    demand(
        name == theirs or message.count(b"\x0a") > 1 or b"\x8a" in message, "protobuf reads another name", name, theirs
    )


def seeds() -> Iterator[bytes]:
    message = HealthCheckRequest(service="llama").SerializeToString()
    more = message + b"\x12\x011\x1a\x02id\x2a\x03\x01\x02\x03\x39\x00\x00\x00\x00\x00\x00\x00\x00"
    nested = b"\x0a" + bytes([len(message)]) + message
    yield b"\x00" + encode_message(message)
    yield b"\x00" + encode_message(more) + encode_message(b"")
    yield b"\x00" + encode_message(b"\x10\x05\x1d\x00\x00\x00\x00" + message)
    yield b"\x01" + encode_message(nested + more)
    yield b"\x00" + encode_message(message + bytes(300), Encoding.GZIP)
    yield b"\x02" + encode_message(message + bytes(300), Encoding.DEFLATE)
    yield b"\x00\x01\x00\x00\x00\x20" + zlib.compress(bytes(1 << 20), 9, 31)[:900]
    yield b"\x00" + encode_message(b"\x80" * 11)


TARGET = Target(
    check=check,
    seeds=seeds,
    covers=("infermesh.planes.data.grpc_models",),
    words=(b"\x0a\x05llama", b"\x80" * 10, b"\xff" * 9 + b"\x01", b"\x0b", b"\x0f", b"\x00\x00\x00\x00\x07"),
    input_bytes_max=600,
)
