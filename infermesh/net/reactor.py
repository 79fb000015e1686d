"""One epoll loop inside one trio task: sockets are served by plain calls, trio keeps its turn.

A trio task per read costs 25 to 35 us of scheduling; a plain call from a loop costs under one. So all sockets
of the data plane sit in an epoll of their own, whose descriptor one trio task waits on (epoll nests: it is
readable when any socket in it is). That task serves what is ready in bounded batches and hands the turn back
to trio before `turn_max_s` is over, so that gossip, timers and request tasks never wait long behind a busy
relay.

Duties of a connection (`Served`): `on_event` never blocks, never awaits, and raises nothing that is a peer's
doing. What it does raise is a defect: it is reported to `on_crash`, the connection is closed and whoever waits for
it is told, and every other connection lives on. Sockets are opened outside the batch only, so a descriptor cannot
be reused inside one.
"""

from __future__ import annotations

import select
import time
from collections.abc import Callable
from typing import Final, Protocol

from trio.lowlevel import wait_readable

READ: Final = select.EPOLLIN
WRITE: Final = select.EPOLLOUT
HALF_CLOSED: Final = select.EPOLLRDHUP
GONE: Final = select.EPOLLHUP | select.EPOLLERR

_BATCH_EVENTS_MAX: Final = 128
# The clock is read once in so many events: one of a TLS handshake takes 2 ms, one of a stream 0.02.
_EVENTS_PER_LOOK: Final = 8
# Wait for the next event here before going back to trio, where a pass of the scheduler costs as much as serving
# two events. Nothing is held up for longer than a turn, and nothing at all once an event has woken a task.
_LINGER_S: Final = 0.001
# A tick of 50 ms elsewhere may slip by 20 ms; a fifth of that leaves room for the tasks that a batch wakes.
_TURN_MAX_S: Final = 0.004


class Served(Protocol):
    """What the reactor serves."""

    fd: int

    def on_event(self, mask: int) -> None: ...

    def lose(self, why: str) -> None:
        """Close, and tell whoever waits for it. Nothing happens when it is closed already."""

    def abort(self) -> None:
        """Close at once, without a word to the peer. Must be safe to call twice."""


class Flushed(Served, Protocol):
    """A connection whose output is gathered: what the events of one batch want sent goes out in one write."""

    def flush(self) -> None: ...


class Reactor:
    """Owns the epoll descriptor and the map from descriptors to connections. Used from one trio thread only."""

    __slots__ = (
        "_epoll",
        "_in_turn",
        "_late",
        "_served",
        "_turn_max_s",
        "_unflushed",
        "batches",
        "events",
        "on_crash",
        "turns",
        "woken",
    )

    def __init__(self, *, turn_max_s: float = _TURN_MAX_S, on_crash: Callable[[Exception], None] | None = None) -> None:
        self._epoll = select.epoll()
        self._served: dict[int, Served] = {}
        # Events that a turn had no time for. Served first in the next one: epoll would tell of the same ones first
        # again, and whoever comes last would starve.
        self._late: dict[int, int] = {}
        self._unflushed: list[Flushed] = []
        self._in_turn = False
        self._turn_max_s = turn_max_s
        self.on_crash = on_crash
        self.woken = False  # An event has made a task runnable: trio gets its turn after this batch.
        self.turns = 0
        self.batches = 0
        self.events = 0

    def __len__(self) -> int:
        return len(self._served)

    def served(self) -> tuple[Served, ...]:
        """Every connection at this moment. For whoever counts, not for the request path."""
        return tuple(self._served.values())

    async def run(self) -> None:
        """Serve for ever; on cancellation abort whatever is still open."""
        try:
            while True:
                await wait_readable(self._epoll.fileno())
                self._turn()
        finally:
            for served in list(self._served.values()):
                served.abort()
            self._epoll.close()

    def add(self, served: Served, mask: int) -> None:
        self._served[served.fd] = served
        self._epoll.register(served.fd, mask)

    def modify(self, served: Served, mask: int) -> None:
        self._epoll.modify(served.fd, mask)

    def replace(self, served: Served, mask: int) -> None:
        """Serve a descriptor by another object from now on: its connection has changed the protocol."""
        assert served.fd in self._served, "only what is served can be replaced"
        self._served[served.fd] = served
        self._epoll.modify(served.fd, mask)

    def remove(self, served: Served) -> None:
        """Forget a connection; called before its socket is closed. Unknown ones are ignored: closing is idempotent."""
        if self._served.pop(served.fd, None) is not None:
            self._epoll.unregister(served.fd)
            self._late.pop(served.fd, None)

    def report(self, error: Exception) -> None:
        """A defect that was caught where it must go no further."""
        if self.on_crash is None:
            raise error
        self.on_crash(error)

    def flush_after_batch(self, connection: Flushed) -> bool:
        """Have `connection.flush` called at the end of the batch under way. False when none is."""
        if self._in_turn:
            self._unflushed.append(connection)
        return self._in_turn

    def _turn(self) -> None:
        self._in_turn = True
        try:
            self._serve_batches()
        finally:
            self._in_turn = False

    def _serve_batches(self) -> None:
        poll = self._epoll.poll
        clock = time.perf_counter
        served = self._served
        end = clock() + self._turn_max_s
        self.turns += 1
        self.woken = False
        linger_s = 0.0
        while True:
            ready = list(self._late.items()) or poll(linger_s, _BATCH_EVENTS_MAX)
            if not ready:
                return
            self._late.clear()
            self.batches += 1
            self.events += len(ready)
            for number, (fd, mask) in enumerate(ready, 1):
                connection = served.get(fd)
                if connection is not None:  # Else it was closed by an earlier event of this batch.
                    try:
                        connection.on_event(mask)
                    except Exception as error:  # noqa: BLE001 - one connection's defect; all others live on.
                        self._end(connection, error)
                if not number % _EVENTS_PER_LOOK and clock() > end:
                    self._late.update(event for event in ready[number:] if event[0] in served)
                    break
            # Flushing one may give another something to say: what is added meanwhile is reached as well.
            for unflushed in self._unflushed:
                try:
                    unflushed.flush()
                except Exception as error:  # noqa: BLE001 - one connection's defect; all others live on.
                    self._end(unflushed, error)
            self._unflushed.clear()
            if self.woken or clock() > end:
                return
            linger_s = _LINGER_S

    def _end(self, connection: Served, error: Exception) -> None:
        """A defect in the code of one connection: it ends, with everything that waits for it."""
        try:
            connection.lose("a defect on this node, see connection_crashed in its log")
        except Exception as further:  # noqa: BLE001 - the same defect, most likely, met once more.
            self.report(further)
        self.report(error)
