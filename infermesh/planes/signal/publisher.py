"""The newest state of each model and GPU of this node, streamed to every router that listens.

Adapters `report`, subscribers are served by `serve`, one call per subscriber. Nothing queues: a subscriber that
is slow (it takes no message) finds, when it has caught up, the newest state of each model and misses those in between.
So memory is bounded by the number of models, whatever routers do, and no router holds up another.

Every report has a position, which grows over all models and GPUs for as long as this publisher lives; the epoch says
which life that is. A subscriber that was cut off goes on after the position that it had taken over.

Overflow answers: a subscriber above `subscribers_max` is refused; a model above `entries_max` pushes out the one not
reported for the longest time; a subscriber that takes nothing for `stall_s` is cut off.

Everything here runs in one trio thread; `report` and `report_gpu` may be called from any task of it.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

import msgspec
import trio

from infermesh.core.model.names import target_key
from infermesh.core.model.state import GpuState, ModelState
from infermesh.planes.signal.codec import Heartbeat, gpu_state_message, heartbeat_message, model_state_message
from infermesh.planes.signal.event_log import EventLog
from wire.proto.infermesh.state.v1 import state_pb2

Send = Callable[[state_pb2.StateDelta], Awaitable[None]]


class TooManySubscribers(Exception):
    """`subscribers_max` are served already."""


class SubscriberStalled(Exception):
    """The subscriber took nothing for `stall_s`."""


class PublisherConfig(msgspec.Struct, frozen=True, kw_only=True):
    heartbeat_s: float = 0.5  # `membership.heartbeat_s`; routers suspect a node after three of them.
    stall_s: float = 10.0
    subscribers_max: int = 1024
    entries_max: int = 1024


class Publisher:
    def __init__(
        self, log: EventLog, config: PublisherConfig | None = None, *, unix_time: Callable[[], float] = time.time
    ) -> None:
        self._log = log
        self._config = config if config is not None else PublisherConfig()
        self._unix_time = unix_time
        self.epoch = max(1, int(unix_time() * 1e3))  # A later life has a larger one; 0 means that none was seen.
        # Key -> delta, in the order of the last report: the newest is last.
        self._entries: dict[str, state_pb2.StateDelta] = {}
        self._position = 0
        self._changed = trio.Event()
        self._subscribers = 0

    @property
    def subscribers(self) -> int:
        return self._subscribers

    def report(self, state: ModelState) -> None:
        """Replace what is known of this model and wake the subscribers."""
        delta = state_pb2.StateDelta(model_state=model_state_message(state))
        self._put(f"model {target_key(state.node, state.model, state.replica)}", delta)

    def report_gpu(self, state: GpuState) -> None:
        self._put(f"gpu {state.gpu_uuid}", state_pb2.StateDelta(gpu_state=gpu_state_message(state)))

    async def serve(self, send: Send, start: state_pb2.SubscribeStart) -> None:
        """Stream to one subscriber until it goes away (whatever `send` raises then).

        Raises TooManySubscribers, or SubscriberStalled when it takes nothing for long.
        """
        if self._subscribers >= self._config.subscribers_max:
            raise TooManySubscribers(f"{self._subscribers} subscribers are served already")
        self._subscribers += 1
        try:
            with trio.move_on_after(self._config.stall_s) as stalled:
                await self._stream(send, start.resume_after if start.epoch == self.epoch else 0, stalled)
            self._log.warning("state_subscriber_stalled", after_s=self._config.stall_s)
        finally:
            self._subscribers -= 1
        raise SubscriberStalled(f"nothing was taken for {self._config.stall_s:g} s")

    async def _stream(self, send: Send, seen: int, stalled: trio.CancelScope) -> None:
        """Endless. Moves the deadline of `stalled` ahead with each message, and suspends it between them."""
        beat = 0
        while True:
            changed = self._changed
            deltas, seen = self._newer_than(seen)
            if not deltas:
                beat += 1
                heartbeat = heartbeat_message(Heartbeat(beat, self._unix_time()))
                deltas = [state_pb2.StateDelta(heartbeat=heartbeat, epoch=self.epoch, position=seen)]
            for delta in deltas:
                stalled.deadline = trio.current_time() + self._config.stall_s
                await send(delta)
            stalled.deadline = trio.current_time() + self._config.heartbeat_s + self._config.stall_s
            with trio.move_on_after(self._config.heartbeat_s):
                await changed.wait()

    def _put(self, key: str, delta: state_pb2.StateDelta) -> None:
        self._position += 1
        delta.epoch, delta.position = self.epoch, self._position
        self._entries.pop(key, None)
        if len(self._entries) >= self._config.entries_max:
            del self._entries[next(iter(self._entries))]
        self._entries[key] = delta
        self._changed.set()
        self._changed = trio.Event()

    def _newer_than(self, seen: int) -> tuple[list[state_pb2.StateDelta], int]:
        """What was reported after position `seen`, oldest first, and the position that it reaches."""
        deltas: list[state_pb2.StateDelta] = []
        for delta in reversed(self._entries.values()):
            if delta.position <= seen:
                break
            deltas.append(delta)
        deltas.reverse()
        return deltas, max(seen, self._position)
