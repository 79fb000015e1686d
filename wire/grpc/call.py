"""Heads and trailers of a call: what a server checks of a request, what a client checks of a response.

grpc/grpc doc/PROTOCOL-HTTP2.md, "Requests" and "Responses". HTTP/2's own rules (pseudo fields, case, lengths) are
checked below; here begins what they mean. Nothing here raises for the peer's doing: each reading returns the call's
head, or what to answer in its place.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from wire.errors import RemoteProtocolError
from wire.grpc.details import agrees
from wire.grpc.encoding import ACCEPT_ENCODING, Encoding, parse_accept, parse_encoding
from wire.grpc.message import decode_message_text, encode_message_text
from wire.grpc.metadata import Metadata, decode_binary, decode_metadata, encode_binary, encode_metadata
from wire.grpc.status import Code, GrpcStatus, from_http, parse_code
from wire.grpc.timeout import encode_timeout, parse_timeout
from wire.http1 import Field
from wire.limits import GRPC_METADATA_BYTES_MAX

CONTENT_TYPE: Final = b"application/grpc"
_PROTO: Final = frozenset({b"", b"proto"})
_TYPE: Final = re.compile(rb"application/grpc(?:\+([a-z0-9._-]+))?[ \t]*(?:;.*)?", re.IGNORECASE | re.DOTALL)
_PATH: Final = re.compile(rb"/[^/?#]+/[^/?#]+")
_ONCE: Final = frozenset({b"grpc-timeout", b"grpc-encoding", b"content-type"})
_NO_STATUS: Final = GrpcStatus(Code.UNKNOWN, "the response ended without grpc-status")
_ENTRY_BYTES: Final = 32  # What an entry costs beyond its text, by the count of RFC 9113 section 6.5.2.


class CallHead(msgspec.Struct, frozen=True, gc=False):
    """A request that may be served, or passed on."""

    path: bytes
    subtype: bytes  # What follows `+` in the content type; empty or `proto`: protobuf.
    encoding: Encoding  # Of the messages that the client sends with flag 1.
    accepts: frozenset[Encoding]
    timeout_s: float  # inf: no deadline.
    metadata: Metadata


class NotGrpc(msgspec.Struct, frozen=True):
    """Answered in HTTP: the asker speaks something else, and would read a gRPC error (status 200) as success."""

    status: int
    message: str
    fields: tuple[Field, ...] = ()


class ResponseStart(msgspec.Struct, frozen=True, gc=False):
    """A response's head: messages and trailers follow."""

    encoding: Encoding
    accepts: frozenset[Encoding]
    metadata: Metadata


class CallEnd(msgspec.Struct, frozen=True):
    """How a call ended, as its trailers (or a trailers-only response) say."""

    status: GrpcStatus
    metadata: Metadata


def is_grpc(content_type: bytes | None) -> bool:
    """`application/grpc`, with `+subtype` and parameters or without. Not grpc-web, not `application/grpcfoo`."""
    if content_type == CONTENT_TYPE:
        return True
    return content_type is not None and _TYPE.fullmatch(content_type) is not None


def read_request(method: bytes, path: bytes, fields: Sequence[Field]) -> CallHead | GrpcStatus | NotGrpc:
    """What a client asks for. `fields`: without pseudo fields."""
    special, repeated = _special(fields)
    matched = _TYPE.fullmatch(special.get(b"content-type", b""))
    if matched is None:
        seen = special.get(b"content-type")
        what = "no content-type" if seen is None else f"content-type {seen[:80].decode('latin-1')!r}"
        return NotGrpc(415, f"{what}: this is a gRPC service, which takes application/grpc")
    if method != b"POST":
        return NotGrpc(405, f"method {method[:20].decode('latin-1')!r}: a gRPC call is a POST", ((b"allow", b"POST"),))
    if repeated:
        return GrpcStatus(Code.INTERNAL, f"the request gives {repeated.decode()} twice, with different values")
    if _PATH.fullmatch(path) is None:
        return GrpcStatus(Code.UNIMPLEMENTED, f"path {path[:200].decode('latin-1')!r} is not /package.Service/Method")
    timeout_s = math.inf
    if (value := special.get(b"grpc-timeout")) is not None:
        try:
            timeout_s = parse_timeout(value)
        except RemoteProtocolError as error:
            return GrpcStatus(Code.INTERNAL, str(error))
    encoding = parse_encoding(special.get(b"grpc-encoding", b"identity"))
    if encoding is None:
        return GrpcStatus(Code.UNIMPLEMENTED, _unknown_encoding(special[b"grpc-encoding"]))
    metadata = decode_metadata(fields)
    if oversized := _oversized(metadata):
        return GrpcStatus(Code.RESOURCE_EXHAUSTED, f"the request has {oversized}")
    subtype = (matched[1] or b"").lower()
    return CallHead(path, subtype, encoding, parse_accept(special.get(b"grpc-accept-encoding")), timeout_s, metadata)


def is_protobuf(head: CallHead) -> bool:
    return head.subtype in _PROTO


def read_response(status: int, fields: Sequence[Field]) -> ResponseStart | GrpcStatus:
    """A response's head that does not end the stream. A status: the call failed here, whatever still comes."""
    special, repeated = _special(fields)
    content_type = special.get(b"content-type")
    if status != 200 or not is_grpc(content_type):
        return _not_grpc(status, content_type)
    if repeated:
        return GrpcStatus(Code.INTERNAL, f"the response gives {repeated.decode()} twice, with different values")
    encoding = parse_encoding(special.get(b"grpc-encoding", b"identity"))
    if encoding is None:
        return GrpcStatus(Code.INTERNAL, f"the response: {_unknown_encoding(special[b'grpc-encoding'])}")
    metadata = decode_metadata(fields)
    if oversized := _oversized(metadata):
        return GrpcStatus(Code.RESOURCE_EXHAUSTED, f"the response has {oversized}")
    return ResponseStart(encoding, parse_accept(special.get(b"grpc-accept-encoding")), metadata)


def read_trailers_only(status: int, fields: Sequence[Field]) -> CallEnd:
    """A response whose head ends the stream."""
    if any(name == b"grpc-status" for name, _ in fields):
        return read_trailers(fields)
    content_type = next((value for name, value in fields if name == b"content-type"), None)
    return CallEnd(_not_grpc(status, content_type), decode_metadata(fields))


def read_trailers(fields: Iterable[Field]) -> CallEnd:
    """The block that ends a call. Without `grpc-status` its end is UNKNOWN, however well it went until then."""
    fields = list(fields)
    code: Code | None = None
    message = ""
    details: bytes | None = None
    for name, value in fields:
        if name == b"grpc-status":
            # Two that differ are as good as none.
            read = parse_code(value)
            code = read if code is None or code is read else Code.UNKNOWN
        elif name == b"grpc-message":
            message = decode_message_text(value)
        elif name == b"grpc-status-details-bin":
            details = decode_binary(value)
    if code is None:
        return CallEnd(_NO_STATUS, decode_metadata(fields))
    if code is Code.UNKNOWN and not message:
        message = next((f"grpc-status {value[:20]!r}" for name, value in fields if name == b"grpc-status"), "")
    status = GrpcStatus(code, message, details)
    if details is not None and not agrees(status):
        status = GrpcStatus(code, message)
    return CallEnd(status, decode_metadata(fields))


def request_fields(
    path: bytes,
    authority: bytes,
    *,
    scheme: bytes = b"http",
    timeout_s: float = math.inf,
    encoding: Encoding = Encoding.IDENTITY,
    metadata: Metadata | None = None,
    user_agent: bytes = b"infermesh-grpc",
) -> list[Field]:
    """A request's block, in the order that the protocol fixes: pseudo fields, then its own, then the application's.

    Raises LocalProtocolError when nothing of `timeout_s` is left, or when metadata cannot be sent.
    """
    fields: list[Field] = [
        (b":method", b"POST"),
        (b":scheme", scheme),
        (b":path", path),
        (b":authority", authority),
        (b"te", b"trailers"),
        (b"content-type", CONTENT_TYPE),
        (b"user-agent", user_agent),
        (b"grpc-accept-encoding", ACCEPT_ENCODING),
    ]
    if timeout_s != math.inf:
        fields.append((b"grpc-timeout", encode_timeout(timeout_s)))
    if encoding is not Encoding.IDENTITY:
        fields.append((b"grpc-encoding", encoding.value.encode()))
    return fields + encode_metadata(metadata) if metadata else fields


def response_fields(*, encoding: Encoding = Encoding.IDENTITY, metadata: Metadata | None = None) -> list[Field]:
    """The head of a response that has messages, `:status` first."""
    fields: list[Field] = [
        (b":status", b"200"),
        (b"content-type", CONTENT_TYPE),
        (b"grpc-accept-encoding", ACCEPT_ENCODING),
    ]
    if encoding is not Encoding.IDENTITY:
        fields.append((b"grpc-encoding", encoding.value.encode()))
    return fields + encode_metadata(metadata) if metadata else fields


def trailer_fields(status: GrpcStatus, metadata: Metadata | None = None) -> list[Field]:
    """The block that ends a call. `grpc-status` always, also when it is OK."""
    fields: list[Field] = [(b"grpc-status", b"%d" % status.code)]
    if status.message:
        fields.append((b"grpc-message", encode_message_text(status.message)))
    if status.details is not None:
        fields.append((b"grpc-status-details-bin", encode_binary(status.details)))
    return fields + encode_metadata(metadata) if metadata else fields


def trailers_only_fields(status: GrpcStatus, metadata: Metadata | None = None) -> list[Field]:
    """A whole response without messages in one block: it must carry END_STREAM."""
    return [*response_fields(), *trailer_fields(status, metadata)]


def _special(fields: Iterable[Field]) -> tuple[dict[bytes, bytes], bytes]:
    """The protocol's own fields, and the name of one that is given twice and not the same (or nothing)."""
    found: dict[bytes, bytes] = {}
    repeated = b""
    for name, value in fields:
        if name[:5] == b"grpc-" or name == b"content-type":
            if name in _ONCE and found.get(name, value) != value:
                repeated = name
            found[name] = value
    return found, repeated


def _oversized(metadata: Metadata) -> str:
    size = sum(len(name) + len(value) + _ENTRY_BYTES for name, value in metadata)
    if size <= GRPC_METADATA_BYTES_MAX:
        return ""
    return f"{size} bytes of metadata (with 32 for each pair); at most {GRPC_METADATA_BYTES_MAX} are taken"


def _unknown_encoding(value: bytes) -> str:
    return f"grpc-encoding {value[:40].decode('latin-1')!r} is unknown here; known are {ACCEPT_ENCODING.decode()}"


def _not_grpc(status: int, content_type: bytes | None) -> GrpcStatus:
    if status == 200 and is_grpc(content_type):
        return _NO_STATUS
    kind = "no content-type" if content_type is None else f"content-type {content_type[:80].decode('latin-1')!r}"
    return GrpcStatus(from_http(status), f"HTTP status {status} with {kind} in place of a gRPC response")
