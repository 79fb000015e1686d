"""HTTP/2 as a machine (RFC 9113, RFC 7541, RFC 8441): our own frames and streams, fast enough for a proxy.

`Http2Connection` is one end of a connection: bytes in, events out, bytes to send; its docstring has the duties of the
caller. `hpack` codes header lists. Not here: sockets, time, what a request means.
"""

from wire.http2.abuse import REASONS, AbuseLimits
from wire.http2.config import Http2Config, Role
from wire.http2.connection import Http2Connection
from wire.http2.events import (
    ConnectionEnded,
    DataReceived,
    Drained,
    Event,
    GoawayReceived,
    HeadersReceived,
    InterimReceived,
    PingAcked,
    SettingsReceived,
    StreamReset,
    TrailersReceived,
)
from wire.http2.frames import PREFACE, ErrorCode, Setting

__all__ = [
    "PREFACE",
    "REASONS",
    "AbuseLimits",
    "ConnectionEnded",
    "DataReceived",
    "Drained",
    "ErrorCode",
    "Event",
    "GoawayReceived",
    "HeadersReceived",
    "Http2Config",
    "Http2Connection",
    "InterimReceived",
    "PingAcked",
    "Role",
    "Setting",
    "SettingsReceived",
    "StreamReset",
    "TrailersReceived",
]
