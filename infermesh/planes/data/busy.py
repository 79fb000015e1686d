"""How many requests are being answered, and whether the node is about to stop."""

from __future__ import annotations

import trio


class Busy:
    """`enter` and `leave` around each request. When `stopping` is set, answers close their connections."""

    def __init__(self) -> None:
        self.requests = 0
        self.stopping = False
        self._idle = trio.Event()

    def enter(self) -> None:
        self.requests += 1

    def leave(self) -> None:
        self.requests -= 1
        assert self.requests >= 0
        if self.stopping and self.requests == 0:
            self._idle.set()

    async def wait_idle(self) -> None:
        """Once stopping: until no request is being answered."""
        assert self.stopping
        if self.requests:
            await self._idle.wait()
