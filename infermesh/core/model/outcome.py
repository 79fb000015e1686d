"""How one attempt at one target ended: what the data plane tells the kernel."""

from __future__ import annotations

import enum

import msgspec

from infermesh.core.model.names import TargetKey


class Verdict(enum.StrEnum):
    OK = "ok"
    CLIENT_ERROR = "client_error"  # 4xx from the runtime: the client's own fault, never held against the target.
    SERVER_ERROR = "server_error"  # 5xx from the runtime or the node.
    CONNECT_FAILED = "connect_failed"
    BROKEN = "broken"  # Reset, truncated or garbage before or inside the response.
    TIMED_OUT = "timed_out"  # No first byte, or no further byte, within its deadline.
    CANCELLED = "cancelled"  # The client went away, or the attempt lost its race.


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    target: TargetKey
    verdict: Verdict
    first_byte_s: float  # Seconds from dispatch to the first response byte; 0.0 when none came.
    total_s: float
    count: int = 1  # So many successes in a row, told at once; the times are the last one's.
    detail: str = ""  # For logs and `mesh explain`; never holds bodies.
