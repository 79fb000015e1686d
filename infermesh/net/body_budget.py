"""How many bytes of request bodies a process keeps, over all its connections and whatever they speak.

Each body has its own limit, and so has each connection; what thousands of connections keep together is bounded here.
A body counts from its first byte until its request has ended, since until then it can be sent to another target.

Duties of whoever keeps a body: `take` before keeping more, and refuse the request where there is no room;
`give` back all that was taken when it is kept no longer. Not counted: what the kernel and one read hold.
"""

from __future__ import annotations


class BodyBudget:
    __slots__ = ("bytes_max", "held_bytes")

    def __init__(self, bytes_max: int = 1 << 30) -> None:
        self.bytes_max = bytes_max
        self.held_bytes = 0

    def take(self, size: int) -> bool:
        """Whether there is room for so many bytes more; then they are taken."""
        if self.held_bytes + size > self.bytes_max:
            return False
        self.held_bytes += size
        return True

    def give(self, size: int) -> None:
        self.held_bytes -= size
        assert self.held_bytes >= 0, "more is given back than was taken"

    @property
    def refusal(self) -> str:
        """What a client is told that found no room."""
        return (
            f"this node keeps {self.held_bytes} bytes of request bodies and takes {self.bytes_max} "
            "(client.bodies_bytes_max); try again shortly"
        )
