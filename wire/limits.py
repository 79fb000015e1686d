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

# --- HPACK (RFC 7541) ---
HPACK_TABLE_BYTES_MAX: Final = 4_096
HPACK_LIST_BYTES_MAX: Final = 65_536
HPACK_FIELDS_MAX: Final = 128
# After the prefix. Five hold 2^35, more than any length or index here; more exist only to overflow somebody.
HPACK_INTEGER_BYTES_MAX: Final = 5
# The smallest size and the last one since the block before (RFC 7541 section 4.2); nobody has a third to tell.
HPACK_SIZE_UPDATES_MAX: Final = 2
# Behind the last field that is taken: what follows in a block too large is read for the table alone. Nobody is that
# wrong by mistake, and each field costs us 2 us.
HPACK_SKIPPED_FIELDS_MAX: Final = 1_024
# What a decoder keeps of Huffman-coded strings to spare their decoding: 64 x (48 + 76 octets) at most.
HPACK_CACHED_STRINGS_MAX: Final = 64
HPACK_CACHED_STRING_BYTES_MAX: Final = 48
# Whole blocks of indexes whose lists a decoder keeps, until its table changes.
HPACK_CACHED_BLOCKS_MAX: Final = 16
HPACK_CACHED_BLOCK_BYTES_MAX: Final = 64

# --- HTTP/2 (RFC 9113); those of one connection count over 30 s, see wire/http2/abuse.py ---
# Huffman coding makes an honest block smaller than its list; 16 KiB of list is what we announce.
HTTP2_HEADER_BLOCK_BYTES_MAX: Final = 65_536
# One full frame and three more hold the largest block; a peer that cuts finer than this does it on purpose.
HTTP2_CONTINUATIONS_MAX: Final = 32
HTTP2_RESETS_RECEIVED_MAX: Final = 200
HTTP2_OWN_RESETS_MAX: Final = 100
# A client may open many before it has read our SETTINGS.
HTTP2_REFUSED_STREAMS_MAX: Final = 1_000
HTTP2_PINGS_MAX: Final = 10
HTTP2_SETTINGS_MAX: Final = 20
HTTP2_PRIORITIES_MAX: Final = 200
HTTP2_EMPTY_DATA_MAX: Final = 50
HTTP2_WINDOW_UPDATES_MAX: Final = 200
HTTP2_UNKNOWN_FRAMES_MAX: Final = 200
HTTP2_CLOSED_FRAMES_MAX: Final = 1_000
HTTP2_UNSENT_CONTROL_BYTES_MAX: Final = 65_536
# Eight times the streams that are open at once: what is on its way for a stream comes long before.
HTTP2_CLOSED_STREAMS_KEPT_MAX: Final = 1_024
# Less than this in `stalled_s` is no progress: a window opened byte by byte keeps nothing alive.
HTTP2_STALLED_BYTES_MAX: Final = 1_024
# The memo of fields found well-formed is the process's, not a connection's.
HTTP2_PASSED_FIELDS_MAX: Final = 1_024
HTTP2_PASSED_FIELD_BYTES_MAX: Final = 96

# --- Trace context (W3C) ---
TRACESTATE_MEMBERS_MAX: Final = 32
TRACESTATE_KEY_CHARS_MAX: Final = 256
TRACESTATE_VALUE_CHARS_MAX: Final = 256
# The standard asks for at least 512 characters to be propagated; 32 full members would be 16 KiB.
TRACESTATE_BYTES_MAX: Final = 8_192

# --- gRPC ---
# What every implementation starts from; a service that takes more says so (net/grpc), and then for itself only.
GRPC_MESSAGE_BYTES_MAX: Final = 4_194_304
# The protocol's own suggestion (doc/PROTOCOL-HTTP2.md). Counted as HTTP/2 counts: 32 bytes for each pair besides.
GRPC_METADATA_BYTES_MAX: Final = 8_192

# --- WebSocket ---
WEBSOCKET_EXTENSION_OFFERS_MAX: Final = 16
WEBSOCKET_SUBPROTOCOLS_MAX: Final = 16
# Of a message in pieces, those that are nearly nothing but their header: each costs us more than its sender.
WEBSOCKET_SMALL_FRAME_BYTES: Final = 64
WEBSOCKET_SMALL_FRAMES_MAX: Final = 1_024
# Pings and pongs in 30 s; clients that keep a connection alive send one or two.
WEBSOCKET_CONTROL_FRAMES_MAX: Final = 600
# A message's bytes may hold several deflate streams; no known peer sends more than one.
WEBSOCKET_DEFLATE_STREAMS_MAX: Final = 8

# --- Server-sent events ---
# Of a runtime's stream, where it is taken apart: for a WebSocket. A token's event is under 1 KiB.
SSE_EVENT_BYTES_MAX: Final = 1 << 20

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
        "HPACK_TABLE_BYTES_MAX",
        HPACK_TABLE_BYTES_MAX,
        "bytes",
        "dynamic table of one direction of an HTTP/2 connection, unless configured smaller",
        "older fields leave the table; a size update above it: COMPRESSION_ERROR",
    ),
    Limit(
        "HPACK_LIST_BYTES_MAX",
        HPACK_LIST_BYTES_MAX,
        "bytes",
        "header list of one block, 32 per field included, unless configured smaller",
        "HeaderListTooLarge; the table stays in step",
    ),
    Limit(
        "HPACK_FIELDS_MAX",
        HPACK_FIELDS_MAX,
        "fields",
        "header fields of one block",
        "HeaderListTooLarge; the table stays in step",
    ),
    Limit(
        "HPACK_INTEGER_BYTES_MAX",
        HPACK_INTEGER_BYTES_MAX,
        "bytes",
        "one integer of a header block, after its prefix",
        "COMPRESSION_ERROR",
    ),
    Limit(
        "HPACK_SIZE_UPDATES_MAX",
        HPACK_SIZE_UPDATES_MAX,
        "updates",
        "table size updates at the start of one header block",
        "COMPRESSION_ERROR",
    ),
    Limit(
        "HPACK_SKIPPED_FIELDS_MAX",
        HPACK_SKIPPED_FIELDS_MAX,
        "fields",
        "fields of one block beyond those that are taken, which are read to keep the table in step",
        "GOAWAY ENHANCE_YOUR_CALM, reason header_list",
    ),
    Limit(
        "HPACK_CACHED_STRINGS_MAX",
        HPACK_CACHED_STRINGS_MAX,
        "strings",
        "decoded Huffman strings that a decoder keeps to spare their decoding",
        "all of them are forgotten",
    ),
    Limit(
        "HPACK_CACHED_STRING_BYTES_MAX",
        HPACK_CACHED_STRING_BYTES_MAX,
        "bytes",
        "Huffman code of one string that a decoder keeps",
        "decoded each time",
    ),
    Limit(
        "HPACK_CACHED_BLOCKS_MAX",
        HPACK_CACHED_BLOCKS_MAX,
        "blocks",
        "header blocks of indexes only that a decoder keeps until its table changes",
        "all of them are forgotten",
    ),
    Limit(
        "HPACK_CACHED_BLOCK_BYTES_MAX",
        HPACK_CACHED_BLOCK_BYTES_MAX,
        "bytes",
        "one header block that a decoder keeps",
        "decoded each time",
    ),
    Limit(
        "HTTP2_HEADER_BLOCK_BYTES_MAX",
        HTTP2_HEADER_BLOCK_BYTES_MAX,
        "bytes",
        "one header block as it travels, over all its frames",
        "GOAWAY ENHANCE_YOUR_CALM, reason continuations",
    ),
    Limit(
        "HTTP2_CONTINUATIONS_MAX",
        HTTP2_CONTINUATIONS_MAX,
        "frames",
        "CONTINUATION frames of one header block",
        "GOAWAY ENHANCE_YOUR_CALM, reason continuations",
    ),
    Limit(
        "HTTP2_RESETS_RECEIVED_MAX",
        HTTP2_RESETS_RECEIVED_MAX,
        "frames",
        "RST_STREAM received in 30 s, unless twice as many streams ended as they should",
        "GOAWAY ENHANCE_YOUR_CALM, reason resets_received",
    ),
    Limit(
        "HTTP2_OWN_RESETS_MAX",
        HTTP2_OWN_RESETS_MAX,
        "streams",
        "streams that we reset in 30 s for faults of the peer",
        "GOAWAY ENHANCE_YOUR_CALM, reason own_resets",
    ),
    Limit(
        "HTTP2_REFUSED_STREAMS_MAX",
        HTTP2_REFUSED_STREAMS_MAX,
        "streams",
        "streams refused in 30 s as beyond the announced limit",
        "GOAWAY ENHANCE_YOUR_CALM, reason refused_streams",
    ),
    Limit(
        "HTTP2_PINGS_MAX",
        HTTP2_PINGS_MAX,
        "frames",
        "PING received in 30 s, and one more for each HEADERS or DATA frame that we sent",
        "GOAWAY ENHANCE_YOUR_CALM, reason pings",
    ),
    Limit(
        "HTTP2_SETTINGS_MAX",
        HTTP2_SETTINGS_MAX,
        "frames",
        "SETTINGS received in 30 s",
        "GOAWAY ENHANCE_YOUR_CALM, reason settings",
    ),
    Limit(
        "HTTP2_PRIORITIES_MAX",
        HTTP2_PRIORITIES_MAX,
        "frames",
        "PRIORITY received in 30 s, and one more for each header block",
        "GOAWAY ENHANCE_YOUR_CALM, reason priorities",
    ),
    Limit(
        "HTTP2_EMPTY_DATA_MAX",
        HTTP2_EMPTY_DATA_MAX,
        "frames",
        "DATA without content and without END_STREAM in 30 s",
        "GOAWAY ENHANCE_YOUR_CALM, reason empty_data",
    ),
    Limit(
        "HTTP2_WINDOW_UPDATES_MAX",
        HTTP2_WINDOW_UPDATES_MAX,
        "frames",
        "WINDOW_UPDATE received in 30 s; 20 more for each HEADERS or DATA that we sent, 8 for each header block",
        "GOAWAY ENHANCE_YOUR_CALM, reason window_updates",
    ),
    Limit(
        "HTTP2_UNKNOWN_FRAMES_MAX",
        HTTP2_UNKNOWN_FRAMES_MAX,
        "frames",
        "frames of unknown types received in 30 s, and one more for each header block",
        "GOAWAY ENHANCE_YOUR_CALM, reason unknown_frames",
    ),
    Limit(
        "HTTP2_CLOSED_FRAMES_MAX",
        HTTP2_CLOSED_FRAMES_MAX,
        "frames",
        "frames received in 30 s on streams that had ended, as far as they are let pass",
        "GOAWAY ENHANCE_YOUR_CALM, reason closed_frames",
    ),
    Limit(
        "HTTP2_UNSENT_CONTROL_BYTES_MAX",
        HTTP2_UNSENT_CONTROL_BYTES_MAX,
        "bytes",
        "answers to control frames that the peer does not read",
        "GOAWAY ENHANCE_YOUR_CALM, reason unsent_control",
    ),
    Limit(
        "HTTP2_CLOSED_STREAMS_KEPT_MAX",
        HTTP2_CLOSED_STREAMS_KEPT_MAX,
        "streams",
        "ended streams of a connection whose end is remembered",
        "the oldest is forgotten; late frames on it pass and are counted",
    ),
    Limit(
        "HTTP2_STALLED_BYTES_MAX",
        HTTP2_STALLED_BYTES_MAX,
        "bytes",
        "content that a peer's windows must let out of a waiting stream in `stalled_s`",
        "RST_STREAM ENHANCE_YOUR_CALM",
    ),
    Limit(
        "HTTP2_PASSED_FIELDS_MAX",
        HTTP2_PASSED_FIELDS_MAX,
        "fields",
        "header fields of all peers remembered as well-formed",
        "all are forgotten, and looked at again",
    ),
    Limit(
        "HTTP2_PASSED_FIELD_BYTES_MAX",
        HTTP2_PASSED_FIELD_BYTES_MAX,
        "bytes",
        "name and value of one field that is remembered as well-formed",
        "it is looked at each time",
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
        "GRPC_MESSAGE_BYTES_MAX",
        GRPC_MESSAGE_BYTES_MAX,
        "bytes",
        "one gRPC message, as announced and again once inflated, unless its service takes more",
        "the call ends with RESOURCE_EXHAUSTED before the message is kept",
    ),
    Limit(
        "GRPC_METADATA_BYTES_MAX",
        GRPC_METADATA_BYTES_MAX,
        "bytes",
        "custom metadata of a gRPC request or response",
        "the call ends with RESOURCE_EXHAUSTED",
    ),
    Limit(
        "WEBSOCKET_EXTENSION_OFFERS_MAX",
        WEBSOCKET_EXTENSION_OFFERS_MAX,
        "extensions",
        "elements of sec-websocket-extensions",
        "client: 400",
    ),
    Limit(
        "WEBSOCKET_SUBPROTOCOLS_MAX",
        WEBSOCKET_SUBPROTOCOLS_MAX,
        "subprotocols",
        "elements of sec-websocket-protocol",
        "client: 400",
    ),
    Limit(
        "WEBSOCKET_SMALL_FRAMES_MAX",
        WEBSOCKET_SMALL_FRAMES_MAX,
        "frames",
        f"frames of less than {WEBSOCKET_SMALL_FRAME_BYTES} bytes in one WebSocket message, its last one aside",
        "the WebSocket is closed with 1008",
    ),
    Limit(
        "WEBSOCKET_CONTROL_FRAMES_MAX",
        WEBSOCKET_CONTROL_FRAMES_MAX,
        "frames",
        "pings and pongs on one WebSocket in 30 s",
        "the WebSocket is closed with 1008",
    ),
    Limit(
        "WEBSOCKET_DEFLATE_STREAMS_MAX",
        WEBSOCKET_DEFLATE_STREAMS_MAX,
        "streams",
        "deflate streams that end inside one compressed WebSocket message",
        "the WebSocket is closed with 1007",
    ),
    Limit(
        "SSE_EVENT_BYTES_MAX",
        SSE_EVENT_BYTES_MAX,
        "bytes",
        "one server-sent event of a runtime's stream that goes out as a WebSocket message",
        "the stream is aborted, the client gets an error message",
    ),
    Limit(
        "STATE_MESSAGE_BYTES_MAX",
        STATE_MESSAGE_BYTES_MAX,
        "bytes",
        "one message of a state stream, without its prefix",
        "the stream is closed and dialled again with back-off",
    ),
)
