"""How a request goes on to a node or a runtime: over which pool, and as which bytes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, Protocol

from infermesh.core.model.names import TargetKey
from infermesh.core.model.targets import Target
from infermesh.net.asker import Request
from infermesh.net.http1 import UpstreamConnection
from infermesh.planes.data.heads import upstream_request
from infermesh.planes.data.pools import Pools
from infermesh.planes.data.upstream import Upstream, UpstreamSource

if TYPE_CHECKING:
    from infermesh.planes.data.run import Attempt


class RequestSender(Protocol):
    @property
    def retryable(self) -> frozenset[int]:
        """Answers by whose status another target may do better: the failure is the target's, not the request's."""

    @property
    def deadline(self) -> float:
        """Monotonic seconds by which the client wants the whole answer; inf: whenever it comes."""

    @property
    def patience(self) -> float:
        """How many head timeouts neither side needs to say a word for, while the request is not whole."""

    @property
    def bytes_in(self) -> int:
        """How much of a request has come that is not whole from the start."""

    @property
    def complete(self) -> bool:
        """Whether the asker has said all of its request."""

    @property
    def repeatable(self) -> bool:
        """Whether the request, as far as it came, can still be sent once more."""

    def pool_to(self, pools: Pools, target: Target) -> UpstreamSource | None:
        """What leads to a target of the fleet; None: nothing does."""

    def runtime_pool(self, pools: Pools, key: TargetKey) -> UpstreamSource | None:
        """What leads to a runtime of this node; None: nothing does."""

    def answered(self) -> None:
        """An answer has begun: the request will not be sent again."""

    def release(self) -> None:
        """The request has ended: nothing of it is needed any more."""

    def send(self, request: Request, lines: Sequence[bytes], attempt: Attempt, up: Upstream) -> None:
        """Begin an exchange; `lines` are what this hop adds to the head, `attempt` is told of the answer."""


class Http1Sender:
    """A whole request, over HTTP/1.1."""

    __slots__ = ()
    retryable: Final = frozenset({429, 500, 502, 503, 504})  # 429 is a target that is full.
    deadline: Final = math.inf
    patience: Final = 1.0
    bytes_in: Final = 0
    complete: Final = True
    repeatable: Final = True

    def pool_to(self, pools: Pools, target: Target) -> UpstreamSource | None:
        return pools.of(target)

    def runtime_pool(self, pools: Pools, key: TargetKey) -> UpstreamSource | None:
        return pools.runtime(key)

    def answered(self) -> None:
        pass  # Its bytes are the request's, which is there until its end.

    def release(self) -> None:
        pass

    def send(self, request: Request, lines: Sequence[bytes], attempt: Attempt, up: Upstream) -> None:
        assert isinstance(up, UpstreamConnection)
        head = request.head
        up.send(upstream_request(head, request.body, lines), head.method, attempt)


HTTP1_OUT: Final = Http1Sender()
