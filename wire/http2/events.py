"""What an HTTP/2 connection tells its caller: values, in the order in which the peer caused them.

Not here: what the peer's frames looked like; padding, CONTINUATION and acknowledgements are dealt with below.
Duty of the caller: `flow_bytes` of each DataReceived goes back through `Http2Connection.credit` exactly once,
also when its stream has ended or been reset meanwhile, for the connection's window is shared by all streams.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from wire.http1.fields import Field


class HeadersReceived(msgspec.Struct, frozen=True, gc=False):
    """A head that passed the rules of RFC 9113 section 8: a request (server), or a final response (client)."""

    stream_id: int
    fields: list[Field]  # Pseudo-header fields first; cookie crumbs joined.
    end_stream: bool


class InterimReceived(msgspec.Struct, frozen=True, gc=False):
    """A 1xx response."""

    stream_id: int
    fields: list[Field]


class TrailersReceived(msgspec.Struct, frozen=True, gc=False):
    """The last of a message: it ends the stream's receiving side."""

    stream_id: int
    fields: list[Field]


class DataReceived(msgspec.Struct, frozen=True, gc=False):
    """Content. What its length must be when content-length says so has been checked up to here."""

    stream_id: int
    data: bytes
    flow_bytes: int  # What it took of the windows, padding included.
    end_stream: bool


class StreamReset(msgspec.Struct, frozen=True, gc=False):
    """The stream is gone, and what was queued on it. Comes only for streams that the caller has heard of."""

    stream_id: int
    code: int
    remote: bool  # The peer ended it; else this side did, for a fault of the peer.
    why: str


class Drained(msgspec.Struct, frozen=True, gc=False):
    """The stream's queue fell below `low_bytes` after it had been above `high_bytes`."""

    stream_id: int


class SettingsReceived(msgspec.Struct, frozen=True, gc=False):
    settings: dict[int, int]


class PingAcked(msgspec.Struct, frozen=True, gc=False):
    payload: bytes


class GoawayReceived(msgspec.Struct, frozen=True, gc=False):
    last_stream_id: int
    code: int
    debug: bytes


class ConnectionEnded(msgspec.Struct, frozen=True, gc=False):
    """The peer broke the connection's rules. GOAWAY is in the output: flush, then close."""

    code: int
    reason: str  # One of wire.http2.REASONS: a label of a metric.
    why: str


Event: TypeAlias = (
    HeadersReceived
    | InterimReceived
    | TrailersReceived
    | DataReceived
    | StreamReset
    | Drained
    | SettingsReceived
    | PingAcked
    | GoawayReceived
    | ConnectionEnded
)
