"""Deadlines for thousands of connections and requests, kept by one trio task instead of a scope each.

A trio cancel scope costs about 10 us to open and 4 us to move; most deadlines here move with every request
and almost none is ever reached. So an object carries its `deadline`, moving it later is one assignment, and
the heap holds at most one early entry per object: when that entry comes up and the deadline has moved on, it
is pushed again. Resolution is `RESOLUTION_S`; nothing here fires early.

Duties of the caller: `on_deadline` is a plain call (no await) and re-arms itself if it wants another.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable
from typing import Final, Protocol

import trio

RESOLUTION_S: Final = 0.005
# An entry outlives its object until it comes up; capping it bounds what closed connections keep in memory.
_AHEAD_MAX_S: Final = 10.0


class Timed(Protocol):
    """An object with one deadline. `timer_at` belongs to `Timers`; both start as `math.inf`."""

    deadline: float
    timer_at: float

    def on_deadline(self, now: float) -> None: ...


class Timers:
    __slots__ = ("_earlier", "_heap", "_now", "_serial", "_sleeps_until", "on_crash")

    def __init__(self, *, on_crash: Callable[[Exception], None] | None = None) -> None:
        self._heap: list[tuple[float, int, Timed]] = []
        self._serial = itertools.count()
        self._earlier = trio.Event()
        self._sleeps_until = math.inf
        self._now = 0.0
        self.on_crash = on_crash

    def arm(self, timed: Timed, deadline: float) -> None:
        """Set the deadline, earlier or later than before; `math.inf` disarms."""
        timed.deadline = deadline
        if deadline < timed.timer_at:
            at = min(deadline, self._now + _AHEAD_MAX_S)
            timed.timer_at = at
            heapq.heappush(self._heap, (at, next(self._serial), timed))
            if at < self._sleeps_until - RESOLUTION_S:
                self._earlier.set()

    async def run(self) -> None:
        while True:
            now = self._now = trio.current_time()
            self._fire(now)
            self._earlier = trio.Event()
            # Never sooner than the resolution: a burst of close deadlines costs one wake-up, not one each.
            next_at = self._heap[0][0] if self._heap else math.inf
            self._sleeps_until = max(next_at, now + RESOLUTION_S)
            with trio.move_on_at(self._sleeps_until):
                await self._earlier.wait()

    def _fire(self, now: float) -> None:
        heap = self._heap
        while heap and heap[0][0] <= now:
            at, _, timed = heapq.heappop(heap)
            if at != timed.timer_at:
                continue  # An earlier entry took this one's place and has fired already.
            timed.timer_at = math.inf
            if timed.deadline > now:
                if timed.deadline != math.inf:
                    self.arm(timed, timed.deadline)
                continue
            timed.deadline = math.inf
            try:
                timed.on_deadline(now)
            except Exception as error:
                if self.on_crash is None:
                    raise
                self.on_crash(error)
