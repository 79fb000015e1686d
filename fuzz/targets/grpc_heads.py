"""Invariant: any header block is a call, a status or no gRPC, nothing is raised, and what we write reads the same.

Input: lines of `name: value`; the first line is method, path and status. Differential: urllib for percent-encoding,
base64 for `-bin`, protobuf for status details. A timeout never grows when it is written again.
"""

from __future__ import annotations

import base64
import binascii
import math
import urllib.parse
from collections.abc import Hashable, Iterator

from fuzz.target import Target, demand
from wire.errors import LocalProtocolError, RemoteProtocolError
from wire.grpc.call import (
    CallEnd,
    CallHead,
    NotGrpc,
    ResponseStart,
    read_request,
    read_response,
    read_trailers,
    read_trailers_only,
    request_fields,
    response_fields,
    trailer_fields,
)
from wire.grpc.details import decode_details
from wire.grpc.message import decode_message_text, encode_message_text
from wire.grpc.metadata import Metadata, decode_binary, encode_binary
from wire.grpc.status import GrpcStatus, from_http, http_of
from wire.grpc.timeout import encode_timeout, parse_timeout
from wire.http1 import Field

_MESSAGE_BYTES_MAX = 2_048


def check(data: bytes) -> Hashable:
    first, _, rest = data.partition(b"\n")
    method, _, first = first.partition(b" ")
    path, _, status_text = first.partition(b" ")
    status = 200 if not status_text.isdigit() else 100 + int(status_text[:3]) % 500
    fields: list[Field] = []
    for line in rest.split(b"\n"):
        name, _, value = line.partition(b": ")
        fields.append((name.lower(), value))
        _values(value)
    request = read_request(method, path, fields)
    if isinstance(request, CallHead):
        _check_call(request)
    start = read_response(status, fields)
    if isinstance(start, ResponseStart):
        written = [
            (n, v) for n, v in response_fields(encoding=start.encoding, metadata=start.metadata) if n[:1] != b":"
        ]
        again = read_response(200, written)
        demand(isinstance(again, ResponseStart) and again.metadata == start.metadata, "another head", again, start)
    for end in (read_trailers(fields), read_trailers_only(status, fields)):
        _check_end(end)
    demand(http_of(from_http(status)) >= 200, "no status", status)
    return type(request).__name__, type(start).__name__, read_trailers(fields).status.code, _refusal(request)


def _refusal(request: object) -> object:
    match request:
        case GrpcStatus():
            return request.code
        case NotGrpc():
            return request.status
        case _:
            return None


def _check_call(call: CallHead) -> None:
    demand(call.timeout_s >= 0, "deadline", call.timeout_s)
    if call.timeout_s == 0:
        return  # It has passed: such a call is answered, never sent on.
    written = request_fields(call.path, b"a", timeout_s=call.timeout_s, encoding=call.encoding, metadata=call.metadata)
    again = read_request(b"POST", call.path, [field for field in written if field[0][:1] != b":"])
    assert isinstance(again, CallHead), again
    demand(again.timeout_s <= call.timeout_s, "a deadline grew", call.timeout_s, again.timeout_s)
    # The field user-agent is ours; the client's own travels as metadata too.
    kept = Metadata(pair for pair in again.metadata if pair != ("user-agent", "infermesh-grpc"))
    demand(kept == call.metadata, "other metadata", list(kept), list(call.metadata))
    demand((again.path, again.encoding) == (call.path, call.encoding), "another call", again, call)


def _check_end(end: CallEnd) -> None:
    details = end.status.details
    if details is not None:
        parsed = decode_details(details)
        demand(parsed is not None and parsed.code == int(end.status.code), "details that say something else", end)
    fields = trailer_fields(end.status, end.metadata)
    demand(
        all(b"\r" not in value and b"\n" not in value and b"\x00" not in value for _, value in fields), "split", fields
    )
    again = read_trailers(fields)
    demand(again.status.code == end.status.code, "written again, another code", again, end)
    demand(again.metadata == end.metadata, "written again, other metadata", list(again.metadata), list(end.metadata))
    if len(end.status.message.encode("utf-8", "replace")) <= _MESSAGE_BYTES_MAX:
        demand(again.status.message == end.status.message, "another message", again.status, end.status)


def _values(value: bytes) -> None:
    """One value read as each kind that a field may hold."""
    text = decode_message_text(value)
    expected = urllib.parse.unquote_to_bytes(value).decode("utf-8", "replace")
    demand(text == expected, "urllib reads another message", text, expected)
    written = encode_message_text(text)
    demand(all(0x20 <= byte <= 0x7E for byte in written), "a message that no field may hold", written)
    if len(text.encode()) <= _MESSAGE_BYTES_MAX:
        demand(decode_message_text(written) == text, "written again, another message", written, text)
    raw = decode_binary(value)
    if raw is not None:
        demand(decode_binary(encode_binary(raw)) == raw, "written again, other bytes", raw)
        bare = value.strip(b" \t").rstrip(b"=")
        demand(base64.b64decode(bare + b"=" * (-len(bare) % 4), validate=True) == raw, "base64 reads other bytes", raw)
    else:
        try:
            strict = base64.b64decode(value, validate=True) if len(value) % 4 == 0 else None
        except binascii.Error:
            strict = None
        demand(strict is None, "base64 reads what we drop", value)
    try:
        seconds = parse_timeout(value)
    except RemoteProtocolError:
        return
    demand(0 <= seconds < math.inf, "no time", seconds)
    try:
        shorter = parse_timeout(encode_timeout(seconds))
    except LocalProtocolError:
        demand(seconds < 1e-9, "not sent although time is left", seconds)
        return
    demand(shorter <= seconds, "a timeout grew", seconds, shorter)
    demand(shorter >= seconds * (1 - 1e-6) - 1.5e-9, "a timeout shrank", seconds, shorter)


def seeds() -> Iterator[bytes]:
    call = b"POST /a.B/C 200\ncontent-type: application/grpc\nte: trailers\n"
    yield call + b"grpc-timeout: 250m\ngrpc-encoding: gzip\ngrpc-accept-encoding: gzip, identity\nuser-agent: x"
    yield call + b"x-a: 1\nx-b-bin: AAEC,AwQ=\nx-a: 2\ngrpc-trace-bin: AAA"
    yield call + b"grpc-status: 5\ngrpc-message: no %E2%82%AC %zz %\ngrpc-status-details-bin: CAUSAm5v"
    yield b"GET /a 404\ncontent-type: text/html\n"
    yield b"POST /a.B/C 400\ncontent-type: application/grpc+json; charset=x\ngrpc-status: 99\ngrpc-timeout: 99999999H"
    yield call + b"grpc-status-details-bin: CAUSAm5v\ngrpc-message: no\ngrpc-status: 5"
    yield call + b"grpc-status: 0\ngrpc-status: 1\ngrpc-encoding: br\ngrpc-timeout: 0n"


TARGET = Target(
    check=check,
    seeds=seeds,
    covers=("wire.grpc",),
    words=(
        b"\ngrpc-status: ",
        b"\ngrpc-message: ",
        b"\ngrpc-status-details-bin: ",
        b"\ngrpc-timeout: ",
        b"\ngrpc-encoding: ",
        b"\ncontent-type: application/grpc",
        b"\nx-bin: ",
        b"\nx: ",
        b"%E2%82%AC",
        b"%",
        b"99999999",
        b"n",
        b"H",
        b"gzip",
        b"identity",
        b"==",
    ),
    input_bytes_max=1024,
)
