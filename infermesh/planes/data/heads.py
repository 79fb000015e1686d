"""The heads that a proxy writes: requests towards a runtime, responses towards a client (RFC 9110 section 7.6).

Fields pass on unless they belong to this hop or are ours to write. `x-infermesh-*` never pass from a client to
a runtime, nor from a GPU node to a client, except the ones that DESIGN 4 names.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from infermesh.core.model.state import LoadHint
from wire.http1 import (
    CHUNKED,
    HOP_BY_HOP,
    UNTIL_CLOSE,
    Field,
    RequestHead,
    ResponseHead,
    encode_relayed_head,
    encode_request_head,
    forwardable,
)
from wire.http1.fields import connection_options

# Largest count in a hint: a number that no float holds would break the arithmetic of every choice after it.
_COUNT_MAX: Final = (1 << 31) - 1
_INCARNATION_MAX: Final = 1 << 53

# Written anew by each hop. What says who asked is dropped: nothing in front of a router is trusted to have set it.
_REQUEST_DROPS: Final = HOP_BY_HOP | frozenset(
    {
        b"traceparent",
        b"tracestate",
        b"forwarded",
        b"x-forwarded-for",
        b"x-forwarded-host",
        b"x-forwarded-proto",
    }
)
_GRPC_DROPS: Final = _REQUEST_DROPS | {b"host", b"grpc-timeout"}
_OURS: Final = b"x-infermesh-"
_OURS_LEN: Final = len(_OURS)


def upstream_request(head: RequestHead, body: bytes, added: Sequence[bytes]) -> bytes:
    """The request as it goes on: same method, target and body, framed by length; `added` are this hop's lines."""
    lines = _not_ours(forwardable(head.fields, head.lines, _REQUEST_DROPS))
    lines += added
    if not head.minor and head.value(b"host") is None:
        lines.append(b"host: ")  # HTTP/1.0 may lack it, what we write may not (RFC 9112 section 3.2).
    if body or head.framing:
        lines.append(b"content-length: %d" % len(body))
    return encode_request_head(head.method, head.target, lines) + body


def upstream_fields(head: RequestHead, added: Sequence[bytes]) -> list[Field]:
    """A gRPC request as it goes on over HTTP/2, by which it came: so it has no fields of one connection.

    Its deadline is for the caller to add: time has passed.
    """
    fields = [
        (b":method", head.method),
        (b":scheme", b"http"),
        (b":path", head.target),
        (b":authority", head.host or b"localhost"),  # An empty one is malformed.
        (b"te", b"trailers"),
    ]
    fields += [field for field in head.fields if field[0] not in _GRPC_DROPS and field[0][:_OURS_LEN] != _OURS]
    for line in added:
        name, _, value = line.partition(b": ")
        fields.append((name, value))
    return fields


def client_response(head: ResponseHead, added: Sequence[bytes], *, http_minor: int, keep_alive: bool) -> bytes:
    """The response's head for the client. Its body's framing stays what the runtime chose where that is possible."""
    lines = _not_ours(forwardable(head.fields, head.lines))
    lines += added
    if head.framing >= 0:
        # 204, 304 and answers to HEAD have no length of their own to state.
        if head.status not in (204, 304):
            lines.append(b"content-length: %d" % head.framing)
    elif http_minor:
        lines.append(b"transfer-encoding: chunked")
    if head.status in (429, 503) and head.value(b"retry-after") is None:
        lines.append(b"retry-after: 1")  # DESIGN 4: on every one of these, also where a runtime leaves it out.
    if not keep_alive:
        lines.append(b"connection: close")
    return encode_relayed_head(head.status, head.reason, lines)


def client_fields(head: ResponseHead, added: Sequence[bytes]) -> list[Field]:
    """The same for a client over HTTP/2, without a word on framing, which is the stream's."""
    listed = [value for name, value in head.fields if name == b"connection"]
    drops = HOP_BY_HOP | connection_options(listed) if listed else HOP_BY_HOP
    fields = [field for field in head.fields if field[0] not in drops and field[0][:_OURS_LEN] != _OURS]
    for line in added:
        name, _, value = line.partition(b": ")
        fields.append((name, value))
    if head.status in (429, 503) and head.value(b"retry-after") is None:
        fields.append((b"retry-after", b"1"))
    return fields


def _not_ours(lines: list[bytes]) -> list[bytes]:
    return [line for line in lines if line[:_OURS_LEN].lower() != _OURS]


def client_trailers(trailers: list[Field]) -> list[Field]:
    """The end of a gRPC call on its way to the client."""
    return [field for field in trailers if field[0][:_OURS_LEN] != _OURS]


def interim_response(head: ResponseHead) -> bytes:
    """A 1xx head on its way to the client (RFC 9110 section 15.2). It has no body, whatever its fields say."""
    return encode_relayed_head(head.status, head.reason, _not_ours(forwardable(head.fields, head.lines)))


def relays_untouched(head: ResponseHead, http_minor: int) -> bool:
    """Whether the body's bytes can go to the client as they come: its framing is one that the client reads."""
    if head.framing == CHUNKED:
        return http_minor == 1
    return head.framing != UNTIL_CLOSE or http_minor == 0


def encode_load(hint: LoadHint) -> bytes:
    return b"i=%d;q=%d;r=%d;k=%.4f" % (hint.incarnation, hint.queue_len, hint.running, hint.kv_usage)


def parse_load(value: bytes) -> LoadHint | None:
    """The value of `x-infermesh-load`; None when it is not one (a hint is never worth an error)."""
    try:
        parts = dict(item.split(b"=", 1) for item in value.split(b";", 8))
        kv_usage = float(parts[b"k"])
        hint = LoadHint(int(parts[b"i"]), int(parts[b"q"]), int(parts[b"r"]), kv_usage)
    except (KeyError, ValueError):
        return None
    counted = 0 <= hint.queue_len <= _COUNT_MAX and 0 <= hint.running <= _COUNT_MAX
    return hint if counted and 0 <= hint.incarnation <= _INCARNATION_MAX and 0.0 <= kv_usage <= 1.0 else None
