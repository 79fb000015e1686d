"""Every limit on what a peer may send us, in one place: plain constants for hot code, one table for people.

Not here: limits that an operator sets (connections, bodies, queues). Those are keys of the node's config
whose names end in `_max`; docs/limits.md lists them beside these.

Duties of whoever adds a limit: a constant `<THING>_<UNIT>_MAX`, a row in `LIMITS` that says what happens at
the limit, code that enforces it, and a test at the limit (the last value allowed, the first one refused).
Then run `scripts/docs`, which writes docs/limits.md. tests/wire/test_limits.py holds constants, rows and
uses together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

# --- HTTP/1.1 ---
HTTP1_HEAD_BYTES_MAX: Final = 65_536
HTTP1_HEADERS_MAX: Final = 128
HTTP1_TARGET_BYTES_MAX: Final = 8_192
# 19 digits hold every signed 64-bit length; longer ones exist only to overflow somebody's parser.
HTTP1_CONTENT_LENGTH_DIGITS_MAX: Final = 19
# Sixteen hexadecimal digits, 4 KiB of extension and the line end; real peers send neither.
HTTP1_CHUNK_LINE_BYTES_MAX: Final = 16 + 4_096 + 2
# Per body: without it a peer feeds one byte of payload behind 4 KiB of extension for ever.
HTTP1_CHUNK_EXTENSION_BYTES_TOTAL_MAX: Final = 16_384
HTTP1_TRAILER_BYTES_MAX: Final = 8_192
# 100, 102 and 103 are all that exist; a runtime that sends more of them is stuck in a loop.
HTTP1_INTERIM_RESPONSES_MAX: Final = 16

# --- Trace context (W3C) ---
TRACESTATE_MEMBERS_MAX: Final = 32
TRACESTATE_KEY_CHARS_MAX: Final = 256
TRACESTATE_VALUE_CHARS_MAX: Final = 256
# The standard asks for at least 512 characters to be propagated; 32 full members would be 16 KiB.
TRACESTATE_BYTES_MAX: Final = 8_192

# --- State streams (infermesh.state.v1) ---
# A whole model state is under 200 bytes; this leaves room for the fields of many later versions.
STATE_MESSAGE_BYTES_MAX: Final = 65_536


@dataclass(frozen=True, slots=True)
class Limit:
    """One row of docs/limits.md. `at_limit` says what the one who exceeds it gets."""

    name: str
    value: int
    unit: str
    what: str
    at_limit: str


LIMITS: Final[tuple[Limit, ...]] = (
    Limit(
        "HTTP1_HEAD_BYTES_MAX",
        HTTP1_HEAD_BYTES_MAX,
        "bytes",
        "request line or status line with all header lines",
        "client: 431 and close; runtime: 502",
    ),
    Limit(
        "HTTP1_HEADERS_MAX",
        HTTP1_HEADERS_MAX,
        "headers",
        "header lines of one head, and trailer lines of one body",
        "client: 431 and close; runtime: 502",
    ),
    Limit(
        "HTTP1_TARGET_BYTES_MAX",
        HTTP1_TARGET_BYTES_MAX,
        "bytes",
        "request target (path and query)",
        "client: 414 and close",
    ),
    Limit(
        "HTTP1_CONTENT_LENGTH_DIGITS_MAX",
        HTTP1_CONTENT_LENGTH_DIGITS_MAX,
        "digits",
        "value of content-length",
        "client: 400 and close; runtime: 502",
    ),
    Limit(
        "HTTP1_CHUNK_LINE_BYTES_MAX",
        HTTP1_CHUNK_LINE_BYTES_MAX,
        "bytes",
        "one chunk-size line with its extension and line end",
        "client: 400 and close; runtime: the stream is aborted",
    ),
    Limit(
        "HTTP1_CHUNK_EXTENSION_BYTES_TOTAL_MAX",
        HTTP1_CHUNK_EXTENSION_BYTES_TOTAL_MAX,
        "bytes",
        "all chunk extensions of one body together",
        "client: 400 and close; runtime: the stream is aborted",
    ),
    Limit(
        "HTTP1_TRAILER_BYTES_MAX",
        HTTP1_TRAILER_BYTES_MAX,
        "bytes",
        "all trailer lines of one body together",
        "client: 400 and close; runtime: the stream is aborted",
    ),
    Limit(
        "HTTP1_INTERIM_RESPONSES_MAX",
        HTTP1_INTERIM_RESPONSES_MAX,
        "responses",
        "1xx responses before the final one",
        "runtime: 502, its connection is closed",
    ),
    Limit(
        "TRACESTATE_MEMBERS_MAX",
        TRACESTATE_MEMBERS_MAX,
        "members",
        "list members of tracestate over all its header lines",
        "tracestate is dropped, traceparent is kept",
    ),
    Limit(
        "TRACESTATE_KEY_CHARS_MAX",
        TRACESTATE_KEY_CHARS_MAX,
        "characters",
        "key of one tracestate member",
        "tracestate is dropped, traceparent is kept",
    ),
    Limit(
        "TRACESTATE_VALUE_CHARS_MAX",
        TRACESTATE_VALUE_CHARS_MAX,
        "characters",
        "value of one tracestate member",
        "tracestate is dropped, traceparent is kept",
    ),
    Limit(
        "TRACESTATE_BYTES_MAX",
        TRACESTATE_BYTES_MAX,
        "bytes",
        "tracestate as a whole",
        "tracestate is dropped, traceparent is kept",
    ),
    Limit(
        "STATE_MESSAGE_BYTES_MAX",
        STATE_MESSAGE_BYTES_MAX,
        "bytes",
        "one message of a state stream, without its length prefix",
        "the stream is closed and dialled again with back-off",
    ),
)
