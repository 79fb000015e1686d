"""Spans of sampled requests: own records in a bounded buffer, which `span_export` sends off the request path.

Not a tracing API with contexts and current spans: whoever handles a request knows its ids and records a span when
it has ended. Three spans of the OpenTelemetry SDK cost 131 us, three of these about 4 us.

The names are a contract (DESIGN section 4): `request`, `router.choose`, `queue_wait`, `compute`. Ids are lower-case
hexadecimal bytes as they stand in `traceparent`. An attribute `error` marks the span as failed, with its value as
the reason.

Duties of the caller: decide at the head of the trace (flag of traceparent, else ratio) and record only what is
sampled. One thread records and one takes; when the buffer is full the newest span is dropped and counted.
"""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Mapping

import msgspec
import trio

from infermesh.observe.families import Value

SPANS_MAX = 8192
WAKE_AT = 512  # One batch is waiting: the exporter need not sleep on.

Attribute = str | int | float | bool


class SpanRecord(msgspec.Struct, frozen=True):
    """One ended span. `parent_id` is empty for the first of a trace."""

    name: str
    start_unix_ns: int
    end_unix_ns: int
    trace_id: bytes  # 32 hexadecimal digits.
    span_id: bytes  # 16 of them.
    parent_id: bytes
    attributes: Mapping[str, Attribute]


class Tracer:
    """The buffer between the request path, which records, and the exporter, which takes.

    `enabled` false: nobody will take, so that recording keeps nothing.
    """

    def __init__(
        self,
        rng: random.Random,
        *,
        enabled: bool,
        recorded: Value,
        dropped: Value,
        spans_max: int = SPANS_MAX,
    ) -> None:
        self.enabled = enabled
        self._bits = rng.getrandbits
        self._recorded = recorded
        self._dropped = dropped
        self._spans: deque[SpanRecord] = deque()
        self._spans_max = spans_max
        self._wake = trio.Event()

    def new_span_id(self) -> bytes:
        return b"%016x" % (self._bits(64) | 1)  # Never zero: a zero id is invalid.

    def new_trace_id(self) -> bytes:
        return b"%032x" % (self._bits(128) | 1)

    def unix_offset_s(self, now: float) -> float:
        """What to add to trio's time to get Unix time. `now` is trio's time, at this moment."""
        return time.time() - now

    def record(
        self,
        name: str,
        start_unix_ns: int,
        end_unix_ns: int,
        trace_id: bytes,
        span_id: bytes,
        parent_id: bytes,
        *,
        attributes: Mapping[str, Attribute],
    ) -> None:
        """Keep one span of a sampled trace. `attributes` is kept as it is: do not change it afterwards."""
        if not self.enabled:
            return
        spans = self._spans
        if len(spans) >= self._spans_max:
            self._dropped.value += 1
            return
        spans.append(SpanRecord(name, start_unix_ns, end_unix_ns, trace_id, span_id, parent_id, attributes))
        self._recorded.value += 1
        if len(spans) >= WAKE_AT:
            self._wake.set()

    def take(self, spans_max: int) -> list[SpanRecord]:
        """Up to `spans_max` of the oldest."""
        spans = self._spans
        return [spans.popleft() for _ in range(min(spans_max, len(spans)))]

    def __len__(self) -> int:
        return len(self._spans)

    async def wait_many(self, within_s: float) -> None:
        """Return when a batch is waiting, at the latest after `within_s`."""
        with trio.move_on_after(within_s):
            await self._wake.wait()
        if len(self._spans) < WAKE_AT:
            self._wake = trio.Event()
