"""The request of one gRPC call on its way through this node: taken as it comes, sent as it comes, kept to be repeated.

A call's request need not be whole before it goes on: what follows is passed to every attempt under way. All of it is
kept until the answer begins, so that another target can be tried; past `bytes_max` it is not, and the call has but the
one attempt. Back-pressure passes through: while an attempt's stream is full, the client gets no credit.

Duties of the caller: it is the stream's `StreamReader`; `on_more` is told of each piece until `attach`, which says
whose attempts get the rest; `on_end` is told that the call has ended.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Final

from infermesh.core.model.names import TargetKey
from infermesh.core.model.targets import Target
from infermesh.net.asker import Request
from infermesh.net.http1 import Refusal
from infermesh.net.http2 import Http2ServerStream
from infermesh.net.http2.client_stream import Http2UpstreamStream
from infermesh.net.timers import Timers
from infermesh.planes.data.heads import upstream_fields
from infermesh.planes.data.pools import Pools
from infermesh.planes.data.run import Attempt, Run
from infermesh.planes.data.upstream import Upstream, UpstreamSource
from wire.grpc.timeout import encode_timeout
from wire.http1 import Field

# A deadline that has passed is the runtime's to say, in its own words; this much of it is left for that.
_LEAST_LEFT_S: Final = 0.001
_ATTEMPTS: Final = b"grpc-previous-rpc-attempts"
_ATTEMPTS_DIGITS_MAX: Final = 4


class GrpcRequest:
    __slots__ = (
        "_bytes_max",
        "_kept",
        "_on_end",
        "_on_more",
        "_run",
        "_stream",
        "_timers",
        "_withheld",
        "bytes_in",
        "complete",
        "deadline",
        "patience",
    )
    # What may do better elsewhere. Any other end is the call's own: what the runtime says of it stands, and a
    # deadline that has passed there has passed everywhere.
    retryable: Final = frozenset({429, 503})

    def __init__(
        self,
        stream: Http2ServerStream,
        timers: Timers,
        *,
        bytes_max: int,
        deadline: float,
        on_more: Callable[[], None],
        on_end: Callable[[], None],
        patience: float = 1.0,
    ) -> None:
        """`deadline`: monotonic seconds by which the call must have ended; inf when it has none."""
        self._stream = stream
        self._timers = timers
        self._bytes_max = bytes_max
        self.deadline = deadline
        self.patience = patience
        self._on_more = on_more
        self._on_end = on_end
        self._kept: list[bytes] | None = []
        self.bytes_in = 0  # Of the request, so far.
        self._withheld = 0  # Credit that the client gets once somebody takes what it has sent.
        self._run: Callable[[], Run | None] | None = None
        self.complete = False  # The client has said all.

    @property
    def so_far(self) -> bytes:
        """What has come, for whoever must look into it before it goes on."""
        assert self._kept is not None
        if len(self._kept) > 1:
            self._kept = [b"".join(self._kept)]
        return self._kept[0] if self._kept else b""

    def attach(self, run: Callable[[], Run | None]) -> None:
        """`run` gives whose attempts get what still comes; None while there are none yet, or none any more."""
        self._run = run

    # --- as the stream's reader ---

    def on_data(self, data: bytes, flow_bytes: int, *, end: bool) -> None:
        self.complete = self.complete or end
        self.bytes_in += len(data)
        run = self._run() if self._run is not None else None
        if self._kept is not None and data and not self._keep(data, run):
            self._refuse()
            return
        if run is not None:
            _pass_on(run, data, self._stream, end=end)
            if end:
                run.on_request_whole()
        if self.bytes_in > self._bytes_max and self._kept is not None:
            self._withheld += flow_bytes  # Nobody has it yet, and more than is kept here: the client waits.
        else:
            self._stream.credit(flow_bytes)
        if self._run is None:
            self._on_more()

    def on_trailers(self, fields: list[Field]) -> None:
        self.on_data(b"", 0, end=True)  # gRPC's requests have none; the end that they carry counts.

    def on_drained(self) -> None:
        pass  # Whoever fills the client's stream is its source, and is resumed by it.

    # --- as the run's sender ---

    @property
    def repeatable(self) -> bool:
        return self._kept is not None

    def pool_to(self, pools: Pools, target: Target) -> UpstreamSource | None:
        return pools.grpc_to(target)

    def runtime_pool(self, pools: Pools, key: TargetKey) -> UpstreamSource | None:
        return pools.grpc_runtime(key)

    def send(self, request: Request, lines: Sequence[bytes], attempt: Attempt, up: Upstream) -> None:
        assert isinstance(up, Http2UpstreamStream)
        fields = upstream_fields(request.head, lines)
        if self.deadline != math.inf:
            left_s = max(_LEAST_LEFT_S, self.deadline - self._timers.now())
            fields.append((b"grpc-timeout", encode_timeout(left_s)))
        if attempt.number:
            _count_attempts(fields, attempt.number)
        up.open(fields, attempt, data=self.so_far, end=self.complete)
        withheld, self._withheld = self._withheld, 0
        if withheld:
            self._stream.credit(withheld)

    def answered(self) -> None:
        self._drop()

    def release(self) -> None:
        """Everybody who is told is let go: a call that has ended is freed here and now, without the collector."""
        self._drop()
        self._run = _nobody
        self._on_more = _nothing
        on_end, self._on_end = self._on_end, _nothing
        on_end()

    # --- inside ---

    def _keep(self, data: bytes, run: Run | None) -> bool:
        """False: there is no room for it, and nobody has it yet."""
        if run is not None and run.settled:
            self._drop()  # The answer has begun: there is nothing left to repeat.
            return True
        assert self._kept is not None
        sent = run is not None and _is_sent(run)
        if not self._stream.keep(len(data)):
            if sent:
                self._drop()
            return sent
        self._kept.append(data)
        if sent and self.bytes_in > self._bytes_max:
            self._drop()
        return True

    def _drop(self) -> None:
        self._kept = None
        self._stream.let_go()

    def _refuse(self) -> None:
        """Whoever works for the call is told that its client is gone; the client is told why."""
        stream = self._stream
        work, stream.work = stream.work, None
        if work is not None:
            work.on_connection_lost()
        if not stream.closed:
            stream.refuse(Refusal(503, "bodies_in_flight", stream.connection.limits.bodies.refusal))


def _nobody() -> None:
    return None


def _nothing() -> None:
    pass


def _count_attempts(fields: list[Field], number: int) -> None:
    """`grpc-previous-rpc-attempts` (proposal A6 of gRPC), those of the client's own included."""
    for at, (name, value) in enumerate(fields):
        if name == _ATTEMPTS and value.isdigit() and len(value) <= _ATTEMPTS_DIGITS_MAX:
            fields[at] = (_ATTEMPTS, b"%d" % (int(value) + number))
            return
    fields.append((_ATTEMPTS, b"%d" % number))


def _is_sent(run: Run) -> bool:
    return any(attempt.up is not None and attempt.verdict is None for attempt in run.attempts)


def _pass_on(run: Run, data: bytes, source: Http2ServerStream, *, end: bool) -> None:
    for attempt in run.attempts:
        up = attempt.up
        if up is not None and attempt.verdict is None and not up.closed:
            assert isinstance(up, Http2UpstreamStream)
            up.send_data(data, end=end, source=source)
