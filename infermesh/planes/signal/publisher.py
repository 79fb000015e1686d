"""The newest state of each model and GPU of this node, streamed to every router that listens.

Adapters `report`, subscribers are served by `serve`, one call per subscriber. Nothing queues: a subscriber that
is slow (its connection does not drain) finds, when it has caught up, the newest state of each model and misses
those in between. So memory is bounded by the number of models, whatever routers do, and no router holds up
another. Each state is encoded once, not once per subscriber.

Overflow answers: a subscriber above `subscribers_max` is refused with 503; a model above `entries_max` pushes
out the one not reported for the longest time; a subscriber that takes nothing for `stall_s` is cut off.

Everything here runs in one trio thread; `report` and `report_gpu` may be called from any task of it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Final, Protocol

import msgspec
import trio

from infermesh.core.model.names import target_key
from infermesh.core.model.state import GpuState, ModelState
from infermesh.planes.signal.codec import Heartbeat, encode_gpu_state, encode_heartbeat, encode_model_state
from infermesh.planes.signal.event_log import EventLog

SUBSCRIBE_PATH: Final = "/infermesh.state.v1.StateService/Subscribe"
PING_PATH: Final = "/infermesh.state.v1.StateService/Ping"
STREAM_CONTENT_TYPE: Final = b"application/x-infermesh-state-v1"
# Frames are gathered into writes of about this size: one TLS record and one chunk for many states.
_WRITE_BYTES: Final = 16_384


class StreamingResponse(Protocol):
    """What the mesh port hands to `serve`. Returning without `finish` must close the connection."""

    async def start(self, status: int, headers: Sequence[tuple[bytes, bytes]]) -> None: ...
    async def write(self, data: bytes) -> None: ...
    async def finish(self) -> None: ...


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
        # Key -> (version, frame), in the order of the last report: the newest is last.
        self._entries: dict[str, tuple[int, bytes]] = {}
        self._version = 0
        self._changed = trio.Event()
        self._subscribers = 0

    @property
    def subscribers(self) -> int:
        return self._subscribers

    def report(self, state: ModelState) -> None:
        """Replace what is known of this model and wake the subscribers. 5 us."""
        self._put(f"model {target_key(state.node, state.model, state.replica)}", encode_model_state(state))

    def report_gpu(self, state: GpuState) -> None:
        self._put(f"gpu {state.gpu_uuid}", encode_gpu_state(state))

    async def serve(self, response: StreamingResponse) -> None:
        """Stream to one subscriber until it goes away (whatever `write` raises then) or takes nothing for long."""
        if self._subscribers >= self._config.subscribers_max:
            await _refuse(response, f"{self._subscribers} subscribers are served already")
            return
        self._subscribers += 1
        try:
            with trio.move_on_after(self._config.stall_s) as stalled:
                await self._stream(response, stalled)
            self._log.warning("state_subscriber_stalled", after_s=self._config.stall_s)
        finally:
            self._subscribers -= 1

    async def _stream(self, response: StreamingResponse, stalled: trio.CancelScope) -> None:
        """Endless. Moves the deadline of `stalled` ahead with each write, and suspends it between writes."""
        await response.start(200, [(b"content-type", STREAM_CONTENT_TYPE)])
        seen = 0
        beat = 0
        while True:
            changed = self._changed
            frames, seen = self._newer_than(seen)
            if not frames:
                beat += 1
                frames = encode_heartbeat(Heartbeat(beat, self._unix_time()))
            for start in range(0, len(frames), _WRITE_BYTES):
                stalled.deadline = trio.current_time() + self._config.stall_s
                await response.write(frames[start : start + _WRITE_BYTES])
            stalled.deadline = trio.current_time() + self._config.heartbeat_s + self._config.stall_s
            with trio.move_on_after(self._config.heartbeat_s):
                await changed.wait()

    def _put(self, key: str, frame: bytes) -> None:
        self._version += 1
        self._entries.pop(key, None)
        if len(self._entries) >= self._config.entries_max:
            del self._entries[next(iter(self._entries))]
        self._entries[key] = (self._version, frame)
        self._changed.set()
        self._changed = trio.Event()

    def _newer_than(self, seen: int) -> tuple[bytes, int]:
        """The frames reported after version `seen`, oldest first, and the version they reach."""
        frames: list[bytes] = []
        for version, frame in reversed(self._entries.values()):
            if version <= seen:
                break
            frames.append(frame)
        frames.reverse()
        return b"".join(frames), self._version


async def _refuse(response: StreamingResponse, reason: str) -> None:
    body = reason.encode()
    await response.start(503, [(b"content-length", b"%d" % len(body)), (b"retry-after", b"1")])
    await response.write(body)
    await response.finish()
