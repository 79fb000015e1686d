"""A request at the door of admission, and the same request once it waits."""

from __future__ import annotations

import math

import msgspec

from infermesh.core.model.names import ModelName
from infermesh.core.model.request import Priority

_WORK_MS_MIN = 1.0  # A prediction of nothing still takes a slot.
_WORK_MS_MAX = 3_600_000.0  # One absurd prediction must not look like an hour of work ahead of everybody.


class Arrival(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What admission needs to know of one request. The ticket is the caller's name for it, used once."""

    ticket: int
    model: ModelName
    priority: Priority = Priority.DEFAULT
    tenant: str = ""
    deadline: float = math.inf  # Monotonic seconds by which the first byte must have come.
    predicted_ttft_ms: float = 0.0  # From its start to its first byte, on the best target.
    work_ms: float = 1.0  # How long it is predicted to hold its slot: the unit of every sum of work.

    @property
    def bounded_work_ms(self) -> float:
        # `max` first: it also turns a NaN into the least work.
        return min(max(_WORK_MS_MIN, self.work_ms), _WORK_MS_MAX)


class Waiter:
    """One arrival in the queue. Compared by identity; `number` is its place in the order of arrival."""

    __slots__ = ("arrival", "arrived_at", "number", "start_by", "work_ms")

    def __init__(self, arrival: Arrival, number: int, arrived_at: float, start_by: float) -> None:
        self.arrival = arrival
        self.number = number
        self.arrived_at = arrived_at
        self.start_by = start_by  # The last moment at which starting still makes sense.
        self.work_ms = arrival.bounded_work_ms
