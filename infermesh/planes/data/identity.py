"""Names of requests: the request id of DESIGN 4 and the trace of W3C Trace Context, from a fast random source.

Ids here name things in logs and traces; they are no secrets, so an ordinary generator seeded from the operating
system is enough, and thirty times cheaper than asking the system each time.
"""

from __future__ import annotations

import random

import msgspec

from infermesh.core.model.ports import Rng
from wire.http1 import RequestHead
from wire.tracecontext import encode_traceparent, parse_traceparent, parse_tracestate


class RequestName(msgspec.Struct, frozen=True):
    request_id: bytes
    trace_id: bytes
    span_id: bytes  # Ours: the parent of what comes behind us.
    parent_span_id: bytes  # The caller's; empty when the trace begins here.
    sampled: bool
    tracestate: bytes

    def lines(self) -> list[bytes]:
        """What the next hop is told, as field lines."""
        lines = [
            b"x-infermesh-request-id: " + self.request_id,
            b"traceparent: " + encode_traceparent(self.trace_id, self.span_id, sampled=self.sampled),
        ]
        if self.tracestate:
            lines.append(b"tracestate: " + self.tracestate)
        return lines


class RequestNames:
    def __init__(self, rng: random.Random, sample_ratio: float) -> None:
        self._bits = rng.getrandbits
        self._random: Rng = rng
        self._sample_ratio = sample_ratio

    def name(self, head: RequestHead, *, request_id: bytes | None = None) -> RequestName:
        """Continue the caller's trace or begin one. `request_id`: as the node before us named it."""
        parents: list[bytes] = []
        states: list[bytes] = []
        for name, value in head.fields:
            if name == b"traceparent":
                parents.append(value)
            elif name == b"tracestate":
                states.append(value)
        bits = self._bits
        span_id = b"%016x" % (bits(64) | 1)  # Never zero: a zero id is invalid.
        if request_id is None:
            request_id = b"%032x" % bits(128)
        parent = parse_traceparent(parents) if parents else None
        if parent is None:
            sampled = self._random.random() < self._sample_ratio
            return RequestName(request_id, b"%032x" % (bits(128) | 1), span_id, b"", sampled, b"")
        tracestate = parse_tracestate(states) if states else b""
        return RequestName(request_id, parent.trace_id, span_id, parent.span_id, parent.sampled, tracestate)
