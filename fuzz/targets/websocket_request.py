"""Invariant: a WebSocket message is the body that a POST would have, asking for a stream, or RequestRefused 400.

Differential: `json`, which finds the same members in the body as in the message, and `stream` true. A runtime's error
body, whatever it is, becomes one message of ours that `json` reads.
"""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterator

from fuzz.target import Target, demand
from infermesh.planes.data.errors import RequestRefused
from infermesh.planes.data.websocket_messages import kind_of, relayed_error_message, request_body


def check(data: bytes) -> Hashable:
    error = json.loads(relayed_error_message(500, data, "id", 1))
    demand(error["object"] == "infermesh.error" and error["error"]["status"] == 500, "another error", error)
    kind = kind_of(data)
    try:
        body = request_body(data)
    except RequestRefused as refused:
        demand(refused.status == 400, "refused with another status", refused.status)
        return "refused", kind is None
    try:
        # What is inside is for the runtime to judge, its UTF-8 too; deep nesting is beyond `json` alone.
        sent = json.loads(data.decode("utf-8", "surrogateescape"))
    except (ValueError, RecursionError):
        return "left as it is" if body == data else "changed", kind is None
    if not isinstance(sent, dict):
        demand(body == data, "no object, and changed", body)
        return "no object"
    read = json.loads(body.decode("utf-8", "surrogateescape"))
    if body != data:
        demand(read.pop("stream") is True, "no stream is asked for", body)
        sent.pop("stream", None)
        demand(repr(read) == repr(sent), "other members", read, sent)
    return "request", kind, body == data


def seeds() -> Iterator[bytes]:
    yield b'{"model":"m","messages":[{"role":"user","content":"hi"}]}'
    yield b' {"model":"m","prompt":"x","stream":true}'
    yield b'{"stream":null,"model":"m","n":1.50,"big":12345678901234567890123}'
    yield b'{"stream":false}'
    yield b'{"type":"cancel"}'
    yield b'{"error":{"message":"no","type":"x","code":404,"param":null}}'
    yield b'{"error":"plain"}'
    yield b'{"message":"no","code":"x"}'
    yield b"{}"
    yield b"[1]"
    yield b'{"a":' + b"[" * 300 + b"]" * 300 + b"}"


TARGET = Target(
    check=check,
    seeds=seeds,
    covers=("infermesh.planes.data.websocket_messages",),
    words=(
        b'"stream":',
        b'"type":',
        b'"error":',
        b'"message":',
        b"true",
        b"null",
        b"{}",
        b"\\u0073tream",
        b",",
        b"1e400",
    ),
    input_bytes_max=1024,
)
