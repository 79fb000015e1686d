"""The messages of inference over WebSocket, as JSON text: what clients send, and what they get besides tokens.

docs/wire/websocket.md is the page for those who write clients. Tokens are not here: they go out as the runtime wrote
them, one message for each of its server-sent events.
"""

from __future__ import annotations

from typing import Final

import msgspec

from infermesh.planes.data.errors import RequestRefused, error_type
from wire.http1 import Field, RequestHead

# Of the head that opened the WebSocket: what belongs to that, or would let a runtime answer in a way that is not taken
# apart here (a coded stream).
_OPENING_ONLY: Final = frozenset(
    {
        b"accept-encoding",
        b"connection",
        b"content-length",
        b"content-type",
        b"expect",
        b"origin",
        b"transfer-encoding",
        b"upgrade",
    }
)
_JSON: Final[Field] = (b"content-type", b"application/json")
_TRUE: Final = msgspec.Raw(b"true")


class _Kind(msgspec.Struct):
    type: str | None = None


class _ErrorBody(msgspec.Struct):
    """What runtimes answer in place of tokens: OpenAI's shape, or its parts without the wrapping."""

    error: msgspec.Raw = msgspec.Raw(b"")
    message: str = ""


class _Error(msgspec.Struct):
    message: str
    type: str | None = None
    code: str | int | None = None
    param: str | None = None


_kind: Final = msgspec.json.Decoder(_Kind).decode
_members: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_error_body: Final = msgspec.json.Decoder(_ErrorBody).decode
_error: Final = msgspec.json.Decoder(_Error).decode


def kind_of(message: bytes) -> str | None:
    """The message's `type`; None for a request, and for what is no object: whoever reads its facts says so."""
    try:
        return _kind(message).type
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def request_body(message: bytes) -> bytes:
    """The body that a POST would have: the message, and that it wants a stream.

    Raises RequestRefused for one that does not. What is no JSON object is left as it is, to be refused as over HTTP.
    """
    try:
        members = _members(message)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return message
    stream = bytes(members.get("stream", b"")).strip()
    if stream == b"true":
        return message
    if stream not in (b"", b"null"):
        text = "over a WebSocket every answer is a stream: leave 'stream' out, or POST the request"
        raise RequestRefused(400, "invalid_stream", text, param="stream")
    if not stream and members:
        # As the rest stands: numbers and spaces keep their text, and prefixes their hash.
        return b'{"stream":true,' + message.lstrip()[1:]
    members["stream"] = _TRUE
    return msgspec.json.encode(members)


def request_head(opening: RequestHead, body_len: int) -> RequestHead:
    """The head that a POST with this body would have had: the opening's fields, but for those of the opening."""
    passed = [
        number
        for number, (name, _) in enumerate(opening.fields)
        if name not in _OPENING_ONLY and not name.startswith(b"sec-")
    ]
    fields = [*(opening.fields[number] for number in passed), _JSON]
    lines = [*(opening.lines[number] for number in passed), b"%b: %b" % _JSON] if opening.lines else []
    return RequestHead(b"POST", opening.target, 1, fields, lines, body_len, True, opening.host, b"")


def done_message(request_id: str, node: str, attempts: int, *, cancelled: bool) -> bytes:
    """The last message of a request that was answered, or that its client has cancelled."""
    value = {
        "object": "infermesh.done",
        "request_id": request_id,
        "node": node or None,
        "attempts": attempts,
        "cancelled": cancelled,
    }
    return msgspec.json.encode(value)


def error_message(refused: RequestRefused, request_id: str, attempts: int = 0, *, final: bool = True) -> bytes:
    """`final`: it is the last message of a request; else it is about a message that became none."""
    error: dict[str, object] = {
        "message": refused.message,
        "type": error_type(refused.status),
        "code": refused.code,
        "param": refused.param,
        "status": refused.status,
    }
    if refused.retry_after_s is not None:
        error["retry_after_s"] = round(refused.retry_after_s, 3)
    return _error_message(error, request_id, attempts, final=final)


def relayed_error_message(status: int, body: bytes, request_id: str, attempts: int) -> bytes:
    """A runtime's own error. Its text is kept where it can be read."""
    found = _read_error(body)
    error: dict[str, object] = {
        "message": found.message,
        "type": found.type or error_type(status),
        "code": found.code,
        "param": found.param,
        "status": status,
    }
    return _error_message(error, request_id, attempts, final=True)


def _read_error(body: bytes) -> _Error:
    try:
        outer = _error_body(body)
        inner = bytes(outer.error)
        if inner[:1] == b"{":
            return _error(inner)
        if inner[:1] == b'"':
            return _Error(msgspec.json.decode(inner, type=str))
        return _error(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return _Error(body[:500].decode("utf-8", "replace").strip() or "the runtime gave no reason")


def _error_message(error: dict[str, object], request_id: str, attempts: int, *, final: bool) -> bytes:
    value: dict[str, object] = {"object": "infermesh.error", "error": error, "request_id": request_id or None}
    if attempts:
        value["attempts"] = attempts
    value["final"] = final
    return msgspec.json.encode(value)
