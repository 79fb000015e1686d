"""A running reactor with its timers, for tests and benches of what lives in them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio

from infermesh.net.reactor import Reactor
from infermesh.net.timers import Timers


@dataclass(frozen=True, slots=True)
class RunningReactor:
    reactor: Reactor
    timers: Timers
    crashes: list[Exception] = field(default_factory=list)


@asynccontextmanager
async def running_reactor() -> AsyncIterator[RunningReactor]:
    """Both tasks run inside; at the end no connection may be left open and nothing may have crashed."""
    crashes: list[Exception] = []
    reactor = Reactor(on_crash=crashes.append)
    timers = Timers(on_crash=crashes.append)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(reactor.run)
        nursery.start_soon(timers.run)
        yield RunningReactor(reactor, timers, crashes)
        left = len(reactor)
        nursery.cancel_scope.cancel()
    assert crashes == [], f"a connection's own code raised: {crashes}"
    assert left == 0, f"{left} connections were left open"
