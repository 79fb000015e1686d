"""Whoever asked: one request's way back, whichever protocol carries it.

An HTTP/1.1 connection is the asker of one request after the other, an HTTP/2 stream and a WebSocket's turn of one
each. What is behind a port sees no more of them than this: it answers whole with `respond`, or has bytes written by
something that knows the protocol and then calls `finish`. Not here: how a protocol frames an answer.

Duties of whoever answers: exactly one `respond` or `finish` for each request, unless the asker is lost; `work` is set
while something is under way that must stop when the asker is gone, and cleared when it has ended.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

import msgspec

from wire.http1 import Field, RequestHead

SlowCall = Callable[[], Awaitable[None]]


class Work(Protocol):
    """What an asker is busy with; told at once when the asker is gone, so that it stops."""

    def on_connection_lost(self) -> None: ...


class Request(msgspec.Struct):
    """One whole request. Over HTTP/2 its head is written as HTTP/1.1 would have it."""

    head: RequestHead
    body: bytes
    received_at: float  # Monotonic seconds when the whole request was there.


class Asker(Protocol):
    keep_alive: bool
    """False: nothing more is asked after this answer. HTTP/2 has its own way of saying so and ignores it."""
    work: Work | None

    @property
    def closed(self) -> bool:
        """Nobody is there any more; whatever is written is dropped."""

    def hand_over(self, call: SlowCall) -> None:
        """Run `call` in a task that ends with the asker: something must be waited for."""

    def respond(self, status: int, fields: Sequence[Field], body: bytes = b"", *, method: bytes = b"GET") -> None:
        """A whole answer, and `finish`. A HEAD's answer has its fields and no body."""

    def finish(self) -> None:
        """The answer is complete."""

    def lose(self, why: str) -> None:
        """End it without a clean end: what was said so far is not the whole answer."""
