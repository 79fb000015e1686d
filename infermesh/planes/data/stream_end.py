"""The last words of a stream that its runtime did not finish: an error event, and no clean end.

A client must be able to tell a broken answer from a whole one. Where the relay has passed the runtime's chunks on as
they came, the chunk under way is filled with newlines, which server-sent events ignore; then one event with
the error follows, and the connection ends without the last chunk. A client of HTTP/1.0 has nothing but the event.
"""

from __future__ import annotations

from typing import Final

from infermesh.planes.data.errors import error_value
from wire.http1 import UNTIL_CLOSE, ResponseHead
from wire.http1.framing import Body, ChunkedBody
from wire.sse import encode_event

_PADDING_BYTES_MAX: Final = 65_536


def is_event_stream(head: ResponseHead) -> bool:
    """Whether an event can be added to the body as text."""
    content_type = head.value(b"content-type") or b""
    return content_type.startswith(b"text/event-stream") and not head.value(b"content-encoding")


def broken_stream_message(failure: str) -> str:
    return f"the stream broke off: {failure}; the answer is incomplete, send the request again"


def broken_stream_event(failure: str) -> bytes:
    """The error, after whatever event was under way."""
    return b"\n\n" + encode_event(error_value(502, "stream_broken", broken_stream_message(failure)))


def broken_stream_ending(head: ResponseHead, body: Body | None, failure: str, *, http_minor: int) -> bytes:
    """What to send before closing; b"" where an error event would not be understood. `head`: the runtime's."""
    if head.framing >= 0 or not is_event_stream(head):
        return b""
    event = broken_stream_event(failure)
    if not http_minor:
        return event
    chunk = b"%x\r\n%b\r\n" % (len(event), event)
    if head.framing == UNTIL_CLOSE:
        return chunk  # We made the chunks, and each of them whole.
    if not isinstance(body, ChunkedBody) or body.in_trailer or body.in_line:
        return b""
    padding = b""
    if body.missing_bytes:
        if not 2 <= body.missing_bytes <= _PADDING_BYTES_MAX:
            return b""
        padding = b"\n" * (body.missing_bytes - 2) + b"\r\n"
    return padding + chunk
