"""What one end of an HTTP/2 connection is set to. Values only.

Not here: limits on connections and requests over time, which belong to whoever accepts connections.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from wire.http2.abuse import AbuseLimits
from wire.http2.frames import (
    FRAME_BYTES_DEFAULT,
    FRAME_BYTES_LARGEST,
    TABLE_BYTES_DEFAULT,
    WINDOW_DEFAULT,
    WINDOW_MAX,
)
from wire.limits import HPACK_FIELDS_MAX


class Role(enum.Enum):
    SERVER = "server"
    CLIENT = "client"


@dataclass(frozen=True, slots=True)
class Http2Config:
    """`window_bytes` <= `connection_window_bytes`; `low_bytes` < `high_bytes`. Call `validate` once.

    Memory that a peer can make a connection hold: `connection_window_bytes` of content that the caller has not
    credited, `streams_max` streams of a few hundred bytes with one header list each, and queued output, which is
    the caller's own and is bounded by heeding `queued_bytes` and Drained.
    """

    role: Role
    streams_max: int = 128  # Open at once. Server: announced and enforced. Client: our own bound below the peer's.
    window_bytes: int = 1 << 20  # Granted to each stream.
    connection_window_bytes: int = 16 << 20
    frame_bytes_max: int = FRAME_BYTES_DEFAULT  # Of one frame received.
    list_bytes_max: int = 16_384  # Of one header list received, with 32 for each field.
    fields_max: int = HPACK_FIELDS_MAX
    table_bytes_max: int = TABLE_BYTES_DEFAULT  # Of each direction's HPACK table.
    extended_connect: bool = False  # Server: RFC 8441 is offered.
    high_bytes: int = 65_536  # Queued on one stream, above which its source ought to pause.
    low_bytes: int = 16_384  # ... and below which it is told to go on.
    preface_s: float = 3.0  # Server: until preface and first SETTINGS are here.
    header_block_s: float = 5.0  # From the first byte of a header block, or of any frame but DATA, to its last.
    settings_ack_s: float = 10.0
    stalled_s: float = 30.0  # Queued content of a stream that the peer's windows do not let out.
    drain_s: float = 5.0  # Until the peer has acknowledged the PING of `drain`; then it goes on without.
    abuse: AbuseLimits = field(default_factory=AbuseLimits)

    def validate(self) -> None:
        if not 1 <= self.window_bytes <= self.connection_window_bytes <= WINDOW_MAX:
            raise ValueError(
                f"window_bytes {self.window_bytes} must be at least 1 and at most connection_window_bytes "
                f"{self.connection_window_bytes}, which must be at most {WINDOW_MAX}"
            )
        if self.connection_window_bytes < WINDOW_DEFAULT:
            raise ValueError(
                f"connection_window_bytes {self.connection_window_bytes} is below {WINDOW_DEFAULT}, which every "
                "connection starts with and which cannot be taken back"
            )
        if not 0 <= self.low_bytes < self.high_bytes:
            raise ValueError(f"low_bytes {self.low_bytes} must be below high_bytes {self.high_bytes}")
        if not FRAME_BYTES_DEFAULT <= self.frame_bytes_max <= FRAME_BYTES_LARGEST:
            raise ValueError(
                f"frame_bytes_max {self.frame_bytes_max} must be {FRAME_BYTES_DEFAULT} to {FRAME_BYTES_LARGEST}"
            )
        if self.streams_max < 1:
            raise ValueError(f"streams_max {self.streams_max} must be at least 1")
        for name in ("preface_s", "header_block_s", "settings_ack_s", "stalled_s", "drain_s"):
            if getattr(self, name) <= 0.0:
                raise ValueError(f"{name} is {getattr(self, name)}; a wait must be longer than 0 s")
