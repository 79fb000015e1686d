"""For an adapter in a process of its own: stream what it reads to the meshd of its node, for as long as it runs.

    async with reporting(address, epoch, log, rng=rng) as reports:
        reports.report(state)  # Whenever there is news; never waits.

Reports are whole states, so only the newest of each model and GPU counts: one that is replaced before it was sent is
never sent, and memory is bounded by their number whatever the node does. Each is acknowledged once the node has taken
it over. After a break everything newest is sent again, acknowledged or not, since the node may have lost it with its
process; what it has already, it passes over by its sequence. A state that the node refuses as malformed is logged and
dropped, and the others go on.

The node admits nobody but itself: the adapter shows the identity of its node, and reports for that node only.
Duties of the caller: report again at the pace of its sampling, since a router trusts no state that grows old; sequences
and incarnations as in `core.model.state`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Final, Generic, TypeVar

import msgspec
import trio
from google.protobuf.message import Message

from infermesh.core.model.names import NodeId, target_key
from infermesh.core.model.ports import Rng
from infermesh.core.model.state import GpuState, ModelState
from infermesh.net.grpc.client import Channel
from infermesh.net.http2.endpoint import EndpointTimes
from infermesh.net.peer_tls import PeerTls
from infermesh.net.pool import PoolLimits
from infermesh.net.reactor import Reactor
from infermesh.net.timers import Timers
from infermesh.net.tls import HTTP2_ALPN, TlsEpoch
from infermesh.planes.signal.codec import gpu_state_message, model_state_message
from infermesh.planes.signal.event_log import EventLog
from infermesh.planes.signal.liveness import Backoff
from wire.grpc import Code, RpcError
from wire.grpc.service import ClientCall
from wire.proto.infermesh.state.v1 import state_pb2
from wire.proto.infermesh.state.v1.state_grpc import StateServiceStub

State = TypeVar("State", ModelState, GpuState)
Told = TypeVar("Told", bound=Message)
Stream = Callable[[], AbstractAsyncContextManager[ClientCall[Told, state_pb2.StateAck]]]

# Sent and not acknowledged: an acknowledgement takes one round trip on the same machine.
_IN_FLIGHT_MAX: Final = 256
# A node that hangs answers no ping: it is dialled again, in case another one has come up there.
_TIMES: Final = EndpointTimes(idle_timeout_s=3600.0, ping_after_s=5.0, ping_timeout_s=5.0)


class ReportConfig(msgspec.Struct, frozen=True, kw_only=True):
    backoff_first_s: float = 0.1
    backoff_longest_s: float = 2.0
    connect_timeout_s: float = 2.0
    entries_max: int = 1024  # Models, and GPUs; above it the one not reported for the longest time is forgotten.


class ReportClient:
    """What an adapter holds. Made by `reporting`; a test may give it any stub."""

    def __init__(self, stub: StateServiceStub, log: EventLog, *, rng: Rng, config: ReportConfig | None = None) -> None:
        self._stub = stub
        self._log = log
        self._rng = rng
        self._config = config if config is not None else ReportConfig()
        self._models: _Lane[ModelState] = _Lane(self._config.entries_max)
        self._gpus: _Lane[GpuState] = _Lane(self._config.entries_max)

    def report(self, state: ModelState) -> None:
        self._models.put(target_key(state.node, state.model, state.replica), state)

    def report_gpu(self, state: GpuState) -> None:
        self._gpus.put(state.gpu_uuid, state)

    @property
    def unacknowledged(self) -> int:
        """Models and GPUs whose newest state the node has not confirmed."""
        return self._models.open_len + self._gpus.open_len

    async def run(self) -> None:
        """Until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._follow, self._models, self._stub.report_model_state, model_state_message)
            nursery.start_soon(self._follow, self._gpus, self._stub.report_gpu_state, gpu_state_message)

    async def _follow(self, lane: _Lane[State], stream: Stream[Told], message_of: Callable[[State], Told]) -> None:
        backoff = Backoff(first_s=self._config.backoff_first_s, longest_s=self._config.backoff_longest_s)
        complaint = ""
        while True:
            await lane.wait_any()  # A node is not bothered by an adapter that has nothing to say.
            lane.start_over()
            failure = await _stream_once(lane, stream, message_of)
            if failure.code is Code.INVALID_ARGUMENT and (culprit := lane.drop_oldest()) is not None:
                self._log.warning("report_dropped", what=culprit, detail=failure.message)
                backoff.reset()
                continue
            if str(failure) != complaint:  # Once for each reason: a node may be down for long.
                complaint = str(failure)
                self._log.warning("report_stream_broken", code=failure.code.name, detail=failure.message)
            if lane.acknowledged_any:
                backoff.reset()
            await trio.sleep(backoff.next_s(self._rng.random()))


@asynccontextmanager
async def reporting(
    address: tuple[str, int], epoch: TlsEpoch, log: EventLog, *, rng: Rng, config: ReportConfig | None = None
) -> AsyncIterator[ReportClient]:
    """Everything that an adapter process needs, until the end of the block. `address`: the mesh port of its node."""
    config = config if config is not None else ReportConfig()
    node = epoch.identity.node
    crashed = partial(_log_crash, log)
    reactor, timers = Reactor(on_crash=crashed), Timers(on_crash=crashed)
    secure = PeerTls(node, lambda: epoch, partial(_log_handshake, log), alpn=HTTP2_ALPN)
    limits = PoolLimits(connections_max=1, idle_timeout_s=3600.0, connect_timeout_s=config.connect_timeout_s)
    channel = Channel.to(address, reactor, timers, secure=secure, limits=limits, times=_TIMES)
    client = ReportClient(StateServiceStub(channel), log, rng=rng, config=config)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(reactor.run)
        nursery.start_soon(timers.run)
        nursery.start_soon(client.run)
        try:
            yield client
        finally:
            channel.close()
            nursery.cancel_scope.cancel()


class _Lane(Generic[State]):
    """The newest states of one kind, and how far the node has them. Plain values; `changed` wakes the sender."""

    def __init__(self, entries_max: int) -> None:
        self._entries_max = entries_max
        self._newest: dict[str, State] = {}  # In the order of the last report.
        self._unsent: dict[str, None] = {}
        self._in_flight: deque[tuple[str, State]] = deque()
        self._changed = trio.Event()
        self.acknowledged_any = False  # On the stream under way, or the last one.

    @property
    def open_len(self) -> int:
        sent = {key for key, state in self._in_flight if self._newest.get(key) is state}
        return len(sent | self._unsent.keys())

    def put(self, key: str, state: State) -> None:
        self._newest.pop(key, None)
        if len(self._newest) >= self._entries_max:
            self._forget(next(iter(self._newest)))
        self._newest[key] = state
        self._unsent[key] = None
        self._wake()

    def start_over(self) -> None:
        """A new stream: whoever is at its other end may know nothing."""
        self._unsent = dict.fromkeys(self._newest)
        self._in_flight.clear()
        self.acknowledged_any = False

    def take(self) -> State | None:
        """The next state to be sent, which is in flight then; None: nothing now."""
        if not self._unsent or len(self._in_flight) >= _IN_FLIGHT_MAX:
            return None
        key = next(iter(self._unsent))
        del self._unsent[key]
        state = self._newest[key]
        self._in_flight.append((key, state))
        return state

    def on_ack(self) -> bool:
        """They come one for each state, in order. False: one too many."""
        if not self._in_flight:
            return False
        self._in_flight.popleft()
        self.acknowledged_any = True
        self._wake()
        return True

    def drop_oldest(self) -> str | None:
        """Forget the state that the node stumbled over, unless a newer one has come since. Its key, or None."""
        if not self._in_flight:
            return None
        key, state = self._in_flight.popleft()
        if self._newest.get(key) is state:
            self._forget(key)
        return key

    async def wait_changed(self) -> None:
        await self._changed.wait()

    async def wait_any(self) -> None:
        while not self._newest:
            await self._changed.wait()

    def _forget(self, key: str) -> None:
        del self._newest[key]
        self._unsent.pop(key, None)

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()


async def _stream_once(lane: _Lane[State], stream: Stream[Told], message_of: Callable[[State], Told]) -> RpcError:
    """Until the stream ends; why it did."""
    try:
        async with stream() as call:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_send, lane, call, message_of)
                failure = await _take_acks(lane, call)
                nursery.cancel_scope.cancel()
            return failure
    except RpcError as error:
        return error


async def _send(
    lane: _Lane[State], call: ClientCall[Told, state_pb2.StateAck], message_of: Callable[[State], Told]
) -> None:
    try:
        while True:
            while (state := lane.take()) is not None:
                await call.send(message_of(state))
            await lane.wait_changed()
    except RpcError:
        return  # Whoever takes the acknowledgements is told why.


async def _take_acks(lane: _Lane[State], call: ClientCall[Told, state_pb2.StateAck]) -> RpcError:
    try:
        while await call.receive() is not None:
            if not lane.on_ack():
                return RpcError(Code.INTERNAL, "the node acknowledged more than it was told")
    except RpcError as error:
        return error
    return RpcError(Code.UNAVAILABLE, "the node ended the report stream")


def _log_crash(log: EventLog, error: Exception) -> None:
    log.warning("connection_crashed", error=f"{type(error).__name__}: {error}")


def _log_handshake(log: EventLog, node: NodeId, why: str) -> None:
    log.warning("report_handshake_failed", node=node, detail=why)
