"""A bounded box of messages from request tasks to the one task that owns the state they are about.

`put` is a plain call and never waits: the request path must not stop for the control loop. When the box is
full the oldest message is dropped and counted; what is put here must be such that a newer message makes up for
a lost older one.
"""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar

import trio

T = TypeVar("T")


class Mailbox(Generic[T]):
    def __init__(self, messages_max: int) -> None:
        if messages_max < 1:
            raise ValueError(f"a mailbox for {messages_max} messages: it must hold at least one")
        self._messages: deque[T] = deque()
        self._messages_max = messages_max
        self._arrived = trio.Event()
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._messages)

    def put(self, message: T) -> None:
        if len(self._messages) == self._messages_max:
            self._messages.popleft()
            self.dropped += 1
        self._messages.append(message)
        if not self._arrived.is_set():
            self._arrived.set()

    async def wait_any(self) -> None:
        """Until a message is there."""
        await self._arrived.wait()

    def take_all(self) -> list[T]:
        """What has arrived, oldest first; the box is empty afterwards."""
        taken = list(self._messages)
        self._messages.clear()
        self._arrived = trio.Event()
        return taken
