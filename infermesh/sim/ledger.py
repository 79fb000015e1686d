"""What happened to every request of a run, and how many were where over time. Kept apart from the fleet, so
that the checks compare two accounts and not one with itself."""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence

from infermesh.core.model.names import NodeId
from infermesh.core.routing.plan import Prediction
from infermesh.sim.node import NodeSpec
from infermesh.sim.workload import SimRequest


class Status(enum.StrEnum):
    OPEN = "open"
    COMPLETED = "completed"
    REJECTED = "rejected"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Passage:
    """One request's way. Times are those at the router."""

    __slots__ = (
        "arrived_s",
        "cached_tokens",
        "ended_s",
        "first_byte_s",
        "node",
        "prediction",
        "request",
        "router",
        "status",
    )

    def __init__(self, request: SimRequest, router: int, now: float) -> None:
        self.request = request
        self.router = router
        self.arrived_s = now
        self.first_byte_s = 0.0  # 0.0: none came.
        self.ended_s = math.nan
        self.cached_tokens = 0
        self.node: NodeId | None = None
        self.prediction: Prediction | None = None
        self.status = Status.OPEN

    @property
    def ttft_ms(self) -> float:
        return (self.first_byte_s - self.arrived_s) * 1e3

    @property
    def token_gap_ms(self) -> float:
        """Mean gap between its tokens; 0.0 when it has only one."""
        gaps = self.request.output_tokens - 1
        return (self.ended_s - self.first_byte_s) * 1e3 / gaps if gaps else 0.0


class Ledger:
    def __init__(self, nodes: Sequence[NodeSpec]) -> None:
        self.nodes = tuple(nodes)
        self.passages: list[Passage] = []
        self.counts = dict.fromkeys(Status, 0)
        self.in_system = 0
        self.area_s = 0.0  # Integral of `in_system` over time.
        self.span_s = 0.0
        self.busy_s: dict[NodeId, float] = {}
        self.preemptions = 0
        self._counted_at = 0.0

    def arrive(self, request: SimRequest, router: int, now: float) -> Passage:
        self._count(now, 1)
        passage = Passage(request, router, now)
        self.passages.append(passage)
        return passage

    def dispatch(self, passage: Passage, node: NodeId, prediction: Prediction) -> None:
        passage.node = node
        passage.prediction = prediction

    def end(self, passage: Passage, status: Status, now: float) -> None:
        assert passage.status is Status.OPEN
        self._count(now, -1)
        passage.status = status
        passage.ended_s = now
        self.counts[status] += 1

    def close(self, now: float) -> None:
        self._count(now, 0)
        self.span_s = now

    def _count(self, now: float, change: int) -> None:
        self.area_s += self.in_system * (now - self._counted_at)
        self._counted_at = now
        self.in_system += change
