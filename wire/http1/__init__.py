"""HTTP/1.1 as bytes (RFC 9112): strict heads and exact body framing, without sockets or time.

`head` turns the bytes up to the empty line into a `RequestHead` or `ResponseHead`, or refuses them.
`framing` follows a body and says exactly where it ends, so that a relay can pass its bytes on untouched.
`fields` knows which fields stop at a hop and how heads are written.

The caller finds the empty line (`head_end`), bounds what it buffers while waiting for it, and never hands
bytes of one message to the framing of another.
"""

from wire.http1.fields import (
    HOP_BY_HOP,
    Field,
    encode_relayed_head,
    encode_request_head,
    encode_response_head,
    forwardable,
)
from wire.http1.framing import ChunkedBody, LengthBody, NoBody, UntilCloseBody, body_of
from wire.http1.head import (
    CHUNKED,
    UNTIL_CLOSE,
    AmbiguousFraming,
    RequestHead,
    ResponseHead,
    head_end,
    parse_request_head,
    parse_response_head,
)

__all__ = [
    "CHUNKED",
    "HOP_BY_HOP",
    "UNTIL_CLOSE",
    "AmbiguousFraming",
    "ChunkedBody",
    "Field",
    "LengthBody",
    "NoBody",
    "RequestHead",
    "ResponseHead",
    "UntilCloseBody",
    "body_of",
    "encode_relayed_head",
    "encode_request_head",
    "encode_response_head",
    "forwardable",
    "head_end",
    "parse_request_head",
    "parse_response_head",
]
