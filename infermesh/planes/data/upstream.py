"""What a run sees of the exchange that one of its attempts has with a node or a runtime, over HTTP/1.1 or HTTP/2."""

from __future__ import annotations

from typing import Protocol

from infermesh.net.http1 import ExchangeTally


class Upstream(Protocol):
    """One exchange under way: `net.http1.UpstreamConnection` or a stream of `net.http2`."""

    bytes_in: int
    paused: bool
    closed: bool
    tally: ExchangeTally

    @property
    def reused(self) -> bool:
        """Whether its breaking off may be no more than staleness: then one more try, on a fresh one, is due."""

    @property
    def has_body_bytes(self) -> bool:
        """Whether bytes of the body came with the head."""

    def hold(self) -> None: ...
    def read_body(self) -> None: ...
    def detach(self) -> None: ...
    def release(self) -> None:
        """It was not used, and may serve somebody else."""

    def lose(self, why: str) -> None: ...


class UpstreamSource(Protocol):
    """A pool: where exchanges come from."""

    def take_idle(self) -> Upstream | None: ...
    async def acquire(self, deadline: float, *, fresh: bool = False) -> Upstream: ...
