"""Listen to one peer's state for ever: dial, check, decode, report, and notice when it dies.

Whether the peer is alive is decided by `PeerLiveness`; this file only moves bytes and time. A peer may speak for
itself only: a state that names another node is refused, counted and logged, and the stream goes on. A stream
that breaks the protocol is dropped and dialled again: a remote fault never kills more than its connection.

How soon a death is known, with the defaults: a killed process within about 0.2 s (its connection breaks, the
next dial is refused), a machine that lost power or network 3 s after its last frame (suspect after 1.5 s).
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Protocol, assert_never

import msgspec
import trio

from infermesh.core.model.names import ModelName, NodeId
from infermesh.core.model.nodes import NodeState
from infermesh.core.model.ports import Rng
from infermesh.core.model.state import GpuState, ModelState
from infermesh.planes.signal.codec import Heartbeat, read_delta
from infermesh.planes.signal.event_log import EventLog
from infermesh.planes.signal.liveness import Backoff, Change, LivenessTiming, PeerLiveness, SmoothedRtt
from infermesh.planes.signal.mesh_dialer import DialFailed, StreamEnded
from wire.errors import RemoteProtocolError
from wire.proto.infermesh.state.v1 import state_pb2


class PeerReport(Protocol):
    """What a subscriber tells; called from its task, must not wait."""

    def model_state(self, state: ModelState) -> None: ...
    def gpu_state(self, state: GpuState) -> None: ...

    def alive(self, node: NodeId, rtt_s: float, *, new_stream: bool) -> None:
        """At the first frame of each stream (`new_stream`: sequences may begin anew), when frames come again
        after a silence, and for each new round trip."""

    def suspect(self, node: NodeId, reason: str) -> None: ...

    def dead(self, node: NodeId, reason: str) -> None:
        """On death, and again when the reason changes."""

    def refused(self, node: NodeId, reason: str) -> None:
        """A state was not taken over: "other_node", "too_many_models", or its stream was "malformed"."""


class StateStream(Protocol):
    @property
    def connect_s(self) -> float: ...
    async def receive(self) -> state_pb2.StateDelta: ...
    async def ack(self, position: int) -> None: ...


class PeerDialer(Protocol):
    """MeshDialer, or a fake."""

    def subscribe(self, start: state_pb2.SubscribeStart) -> AbstractAsyncContextManager[StateStream]: ...
    async def ping(self) -> float: ...
    def close(self) -> None: ...


class SubscriberConfig(msgspec.Struct, frozen=True, kw_only=True):
    timing: LivenessTiming = LivenessTiming()
    ping_every_s: float = 2.0
    backoff_first_s: float = 0.1
    backoff_longest_s: float = 2.0
    settled_after_s: float = 1.0  # A stream that lived this long is dialled again at once when it breaks.
    models_max: int = 1024  # Names one peer may bring; more are refused.


async def run_subscriber(
    node: NodeId,
    dialer: PeerDialer,
    report: PeerReport,
    log: EventLog,
    *,
    rng: Rng,
    config: SubscriberConfig | None = None,
) -> None:
    """Follow `node` until cancelled. Closes the dialer at the end."""
    subscriber = _Subscriber(node, report, log, config if config is not None else SubscriberConfig())
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(subscriber.watch)
            nursery.start_soon(subscriber.measure, dialer, rng)
            await subscriber.follow(dialer, rng)
    finally:
        dialer.close()


class _Failure(msgspec.Struct, frozen=True):
    reason: str
    proven: bool = False


class _Subscriber:
    """What the three tasks of one peer share."""

    def __init__(self, node: NodeId, report: PeerReport, log: EventLog, config: SubscriberConfig) -> None:
        self._node = node
        self._report = report
        self._log = log
        self._config = config
        self._liveness = PeerLiveness(config.timing, trio.current_time())
        self._rtt = SmoothedRtt()
        self._changed = trio.Event()
        self._stream_scope = trio.CancelScope()
        self._frames = 0
        self._models: set[ModelName] = set()
        self._epoch = 0  # Of the publisher, and how far it was followed: where the next stream goes on.
        self._position = 0
        self._acked = 0
        self._complained = False

    # --- Tasks ---

    async def follow(self, dialer: PeerDialer, rng: Rng) -> None:
        backoff = Backoff(first_s=self._config.backoff_first_s, longest_s=self._config.backoff_longest_s)
        while True:
            began = trio.current_time()
            self._frames = 0
            failure = await self._follow_once(dialer)
            if failure is not None:
                self._apply(self._liveness.on_failed(failure.reason, proven=failure.proven))
            if self._frames and trio.current_time() - began >= self._config.settled_after_s:
                # It worked until now: whether the process died is known soonest by asking at once.
                backoff.reset()
            else:
                await trio.sleep(backoff.next_s(rng.random()))

    async def watch(self) -> None:
        while True:
            changed = self._changed
            with trio.move_on_at(self._liveness.wake_at):
                await changed.wait()
            self._apply(self._liveness.on_wake(trio.current_time()))

    async def measure(self, dialer: PeerDialer, rng: Rng) -> None:
        while True:
            await trio.sleep(self._config.ping_every_s * (0.75 + 0.5 * rng.random()))
            if self._liveness.state is not NodeState.ALIVE:
                continue
            try:
                sample_s = await dialer.ping()
            except StreamEnded:
                continue  # Whether it lives is for the stream to say.
            if self._liveness.state is NodeState.ALIVE:
                self._report.alive(self._node, self._rtt.take(sample_s), new_stream=False)

    # --- One stream ---

    async def _follow_once(self, dialer: PeerDialer) -> _Failure | None:
        start = state_pb2.SubscribeStart(epoch=self._epoch, resume_after=self._position)
        with trio.CancelScope() as self._stream_scope:
            try:
                async with dialer.subscribe(start) as stream:
                    await self._read(stream)
            except RemoteProtocolError as error:
                self._report.refused(self._node, "malformed")
                return _Failure(f"malformed state stream: {error}")
            except DialFailed as error:
                # A dial that was answered wrongly (refused, reset, not our TLS) finds no living peer there. One
                # that timed out proves nothing, and a peer that declines to stream is alive.
                return _Failure(str(error), proven=error.proven)
            except StreamEnded as error:
                return _Failure(str(error))
        return None  # Cut off by its death by silence, whose reason stands.

    async def _read(self, stream: StateStream) -> None:
        self._complained = False
        self._rtt.guess(stream.connect_s)
        while True:
            message = await stream.receive()
            self._take(message)
            # A heartbeat says that all up to its position has been sent: one answer for many states.
            if message.HasField("heartbeat") and self._position != self._acked:
                self._acked = self._position
                await stream.ack(self._position)

    def _take(self, message: state_pb2.StateDelta) -> None:
        delta = read_delta(message)
        self._frames += 1
        new_epoch = message.epoch != self._epoch
        if new_epoch:
            self._epoch, self._position, self._acked = message.epoch, 0, 0
        changes = self._liveness.on_frame(trio.current_time())
        if changes or self._frames == 1:
            self._report.alive(self._node, self._rtt.rtt_s, new_stream=new_epoch)
        self._apply(changes)
        self._position = max(self._position, message.position)
        match delta:
            case ModelState():
                if self._may_report(delta.node) and self._has_room(delta.model):
                    self._report.model_state(delta)
            case GpuState():
                if self._may_report(delta.node):
                    self._report.gpu_state(delta)
            case Heartbeat() | None:
                pass  # None: a kind of a newer version.
            case _:
                assert_never(delta)

    def _may_report(self, subject: NodeId) -> bool:
        if subject == self._node:
            return True
        self._refuse("other_node", about=subject)
        return False

    def _has_room(self, model: ModelName) -> bool:
        if model in self._models:
            return True
        if len(self._models) >= self._config.models_max:
            self._refuse("too_many_models", models_max=self._config.models_max)
            return False
        self._models.add(model)
        return True

    def _refuse(self, reason: str, **fields: object) -> None:
        self._report.refused(self._node, reason)
        if not self._complained:
            # Once per stream: a peer must not fill our log.
            self._complained = True
            self._log.warning("peer_state_refused", peer=self._node, reason=reason, **fields)

    def _apply(self, changes: list[Change]) -> None:
        for change in changes:
            if change.state is NodeState.SUSPECT:
                self._report.suspect(self._node, change.reason)
            elif change.state is NodeState.DEAD:
                self._report.dead(self._node, change.reason)
                self._models.clear()
                self._epoch = self._position = self._acked = 0  # What is not believed any more is asked for again.
                self._stream_scope.cancel()
        if changes:
            self._changed.set()
            self._changed = trio.Event()
