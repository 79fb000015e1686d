"""Deadlines for thousands of connections and requests, kept by one trio task instead of a scope each.

A trio cancel scope costs about 10 us to open and 4 us to move; most deadlines here move with every request
and almost none is ever reached. So an object carries its `deadline`, moving it later is one assignment, and
the heap holds at most one live entry per object: when that entry comes up and the deadline has moved on, it
is pushed again. Resolution is `RESOLUTION_S`; nothing here fires early.

Duties of the caller: `disarm` an object that has ended, so that the heap does not keep it in memory; `on_deadline`
is a plain call (no await) and re-arms itself if it wants another.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable
from typing import Final, Protocol, TypeAlias

import trio

RESOLUTION_S: Final = 0.005
# So many entries of ended objects may wait for their time before the heap is cleaned of them: as many as leave the
# processor's caches to others. Cleaning costs the same for each of them, however often it is done.
_DEAD_MAX: Final = 500


class Timed(Protocol):
    """An object with one deadline. `timer` belongs to `Timers`; they start as `math.inf` and None."""

    deadline: float
    timer: Entry | None

    def on_deadline(self, now: float) -> None: ...


# When it comes up, a serial number so that no two compare equal, and the object, or nothing once that has ended.
Entry: TypeAlias = "tuple[float, int, list[Timed]]"


class Timers:
    __slots__ = ("_dead", "_earlier", "_heap", "_serial", "_sleeps_until", "now", "on_crash")

    def __init__(self, *, on_crash: Callable[[Exception], None] | None = None) -> None:
        self._heap: list[Entry] = []
        self._serial = itertools.count()
        self._earlier = trio.Event()
        self._sleeps_until = math.inf
        self._dead = 0
        self.on_crash = on_crash
        # trio's clock without two calls of trio around it: the request path reads it often.
        self.now: Callable[[], float] = trio.lowlevel.current_clock().current_time

    def __len__(self) -> int:
        """Entries held, those of ended objects among them."""
        return len(self._heap)

    def arm(self, timed: Timed, deadline: float) -> None:
        """Set the deadline, earlier or later than before; `math.inf` lets it rest."""
        timed.deadline = deadline
        entry = timed.timer
        if entry is not None:
            if deadline >= entry[0]:
                return
            self._kill(entry)
        elif deadline == math.inf:
            return
        timed.timer = entry = (deadline, next(self._serial), [timed])
        heapq.heappush(self._heap, entry)
        if deadline < self._sleeps_until - RESOLUTION_S:
            self._earlier.set()

    def disarm(self, timed: Timed) -> None:
        """The object has ended: forget it."""
        timed.deadline = math.inf
        entry, timed.timer = timed.timer, None
        if entry is not None:
            self._kill(entry)

    async def run(self) -> None:
        while True:
            now = trio.current_time()
            self._fire(now)
            self._earlier = trio.Event()
            # Never sooner than the resolution: a burst of close deadlines costs one wake-up, not one each.
            next_at = self._heap[0][0] if self._heap else math.inf
            self._sleeps_until = max(next_at, now + RESOLUTION_S)
            with trio.move_on_at(self._sleeps_until):
                await self._earlier.wait()

    def _kill(self, entry: Entry) -> None:
        entry[2].clear()
        self._dead += 1
        if self._dead > _DEAD_MAX and self._dead > len(self._heap) // 2:
            self._heap = [entry for entry in self._heap if entry[2]]
            heapq.heapify(self._heap)
            self._dead = 0

    def _fire(self, now: float) -> None:
        while self._heap and self._heap[0][0] <= now:
            held = heapq.heappop(self._heap)[2]
            if held:
                self._come_up(held[0], now)
            else:
                self._dead -= 1

    def _come_up(self, timed: Timed, now: float) -> None:
        timed.timer = None
        if timed.deadline > now:
            self.arm(timed, timed.deadline)
            return
        timed.deadline = math.inf
        try:
            timed.on_deadline(now)
        except Exception as error:  # noqa: BLE001 - one object's defect; the others keep their time.
            self.report(error)

    def report(self, error: Exception) -> None:
        """A defect that was caught where it must go no further."""
        if self.on_crash is None:
            raise error
        self.on_crash(error)
