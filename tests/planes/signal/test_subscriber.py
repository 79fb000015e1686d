from __future__ import annotations

import math
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import assert_never

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from infermesh.core.model.names import ModelName, NodeId
from infermesh.core.model.state import GpuHealth, GpuState, Lifecycle, ModelState
from infermesh.planes.signal.codec import Heartbeat, gpu_state_message, heartbeat_message, model_state_message
from infermesh.planes.signal.mesh_dialer import DialFailed, StreamEnded
from infermesh.planes.signal.subscriber import SubscriberConfig, run_subscriber
from infermesh.testing.recorded_log import RecordedLog
from wire.proto.infermesh.state.v1.state_pb2 import StateDelta, SubscribeStart

NODE = NodeId("gpu-a")
EPOCH = 7
REFUSED = DialFailed("cannot connect to x:1: connection refused", proven=True)
BROKEN = StreamEnded("connection reset by peer")
NOWHERE = SubscribeStart()
Item = StateDelta | StreamEnded


def _delta(said: ModelState | GpuState | Heartbeat, *, epoch: int = EPOCH, position: int = 0) -> StateDelta:
    match said:
        case ModelState():
            return StateDelta(model_state=model_state_message(said), epoch=epoch, position=position)
        case GpuState():
            return StateDelta(gpu_state=gpu_state_message(said), epoch=epoch, position=position)
        case Heartbeat():
            return StateDelta(heartbeat=heartbeat_message(said), epoch=epoch, position=position)
        case _:
            assert_never(said)


def _beat(position: int = 0, *, epoch: int = EPOCH) -> StateDelta:
    return _delta(Heartbeat(1, 0.0), epoch=epoch, position=position)


BEAT = _beat()


def _state(model: str = "m", sequence: int = 1, node: str = "gpu-a") -> ModelState:
    return ModelState(
        node=NodeId(node),
        model=ModelName(model),
        runtime="fake",
        incarnation=1,
        sequence=sequence,
        source_time=0.0,
        lifecycle=Lifecycle.READY,
    )


def _gpu(node: str = "gpu-a") -> GpuState:
    return GpuState(
        node=NodeId(node),
        gpu_uuid="GPU-1",
        sequence=1,
        source_time=0.0,
        name="Fake",
        health=GpuHealth.HEALTHY,
        sm_utilization=0.0,
        memory_used_bytes=0,
        memory_total_bytes=0,
        temperature_c=0.0,
        power_w=0.0,
    )


class _Stream:
    connect_s = 0.004

    def __init__(self) -> None:
        self._send, self._receive = trio.open_memory_channel[Item](100)
        self.acks: list[int] = []
        self.breaks_at_ack = False

    async def receive(self) -> StateDelta:
        item = await self._receive.receive()
        if isinstance(item, StreamEnded):
            raise item
        return item

    async def ack(self, position: int) -> None:
        await trio.lowlevel.checkpoint()
        if self.breaks_at_ack:
            raise BROKEN
        self.acks.append(position)

    def put(self, item: Item) -> None:
        self._send.send_nowait(item)


class _Dialer:
    """A peer in virtual time: what the next dials meet, and the stream that is open now."""

    def __init__(self) -> None:
        self.meets: list[Exception | float] = []  # An error, or the seconds that a dial hangs before it fails.
        self.otherwise: Exception | float | None = None
        self.dialled_at: list[float] = []
        self.starts: list[SubscribeStart] = []
        self.stream = _Stream()
        self.open_streams = 0
        self.closed = 0
        self.rtt_s: float | StreamEnded = 0.002

    @asynccontextmanager
    async def subscribe(self, start: SubscribeStart) -> AsyncIterator[_Stream]:
        self.starts.append(start)
        self.dialled_at.append(round(trio.current_time(), 3))
        await trio.lowlevel.checkpoint()
        meets = self.meets.pop(0) if self.meets else self.otherwise
        if isinstance(meets, Exception):
            raise meets
        if meets is not None:
            await trio.sleep(meets)
            raise DialFailed("no answer within 2 s", proven=False)
        self.stream = _Stream()
        self.open_streams += 1
        try:
            yield self.stream
        finally:
            self.open_streams -= 1

    async def ping(self) -> float:
        await trio.lowlevel.checkpoint()
        if isinstance(self.rtt_s, StreamEnded):
            raise self.rtt_s
        return self.rtt_s

    def close(self) -> None:
        self.closed += 1


class _Report:
    """Everything that was told, with its time; round trips apart."""

    def __init__(self) -> None:
        self.told: list[tuple[float, str]] = []
        self.states: list[ModelState] = []
        self.gpus: list[GpuState] = []
        self.rtts_s: list[float] = []
        self.new_streams: list[bool] = []  # Of each time that it came alive.

    def _tell(self, text: str) -> None:
        self.told.append((round(trio.current_time(), 2), text))

    def model_state(self, state: ModelState) -> None:
        self.states.append(state)

    def gpu_state(self, state: GpuState) -> None:
        self.gpus.append(state)

    def alive(self, node: NodeId, rtt_s: float, *, new_stream: bool) -> None:
        assert node == NODE
        self.rtts_s.append(rtt_s)
        if rtt_s != 0.002 or self.told[-1][1] != "alive":  # Else a round trip was measured.
            self._tell("alive")
            self.new_streams.append(new_stream)

    def suspect(self, node: NodeId, reason: str) -> None:
        self._tell(f"suspect: {reason}")

    def dead(self, node: NodeId, reason: str) -> None:
        self._tell(f"dead: {reason}")

    def refused(self, node: NodeId, reason: str) -> None:
        self._tell(f"refused: {reason}")


class _Rig:
    def __init__(self) -> None:
        self.dialer = _Dialer()
        self.report = _Report()
        self.log = RecordedLog()

    async def run(self) -> None:
        config = SubscriberConfig(models_max=3)
        await run_subscriber(NODE, self.dialer, self.report, self.log, rng=random.Random(1), config=config)

    async def put(self, *items: Item) -> None:
        """Hand over what comes on the open stream, and let the subscriber take it."""
        for item in items:
            self.dialer.stream.put(item)
        await trio.testing.wait_all_tasks_blocked()

    async def beat_for(self, seconds: float) -> None:
        for _ in range(round(seconds / 0.5)):
            await trio.sleep(0.5)
            await self.put(BEAT)


@pytest.fixture
def rig() -> _Rig:
    return _Rig()


async def _started(rig: _Rig, nursery: trio.Nursery) -> None:
    nursery.start_soon(rig.run)
    await trio.testing.wait_all_tasks_blocked()


async def test_a_peer_is_alive_from_its_first_frame_and_its_states_are_reported(
    rig: _Rig, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    await _started(rig, nursery)
    assert rig.report.told == []
    await rig.put(_delta(_state("a")), _delta(_gpu()), _delta(_state("b")))
    assert rig.report.told == [(0.0, "alive")]
    assert rig.report.states == [_state("a"), _state("b")]
    assert rig.report.gpus == [_gpu()]
    assert rig.report.rtts_s[0] == 0.004


async def test_silence_is_suspected_and_then_dead_and_the_peer_dialled_again(
    rig: _Rig, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    await _started(rig, nursery)
    await rig.put(BEAT)
    first = rig.dialer.stream
    await trio.sleep(5.0)
    assert rig.report.told == [
        (0.0, "alive"),
        (1.5, "suspect: no state for 1.5 s"),
        (3.0, "dead: no state for 3.0 s"),
    ]
    assert rig.dialer.stream is not first
    assert rig.dialer.open_streams == 1
    await rig.put(BEAT)
    assert rig.report.told[-1] == (5.0, "alive")


async def test_frames_after_a_suspicion_make_it_alive_again_on_the_same_stream(
    rig: _Rig, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    await _started(rig, nursery)
    await rig.put(BEAT)
    await trio.sleep(2.0)
    await rig.put(BEAT)
    assert [text for _, text in rig.report.told] == ["alive", "suspect: no state for 1.5 s", "alive"]
    assert len(rig.dialer.dialled_at) == 1


async def test_a_killed_process_is_dead_as_soon_as_the_next_dial_is_refused(
    rig: _Rig, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    await _started(rig, nursery)
    await rig.put(BEAT)
    await rig.beat_for(5.0)
    rig.dialer.otherwise = REFUSED
    await rig.put(BROKEN)
    assert rig.report.told == [(0.0, "alive"), (5.0, "dead: cannot connect to x:1: connection refused")]
    assert rig.dialer.dialled_at[1] == 5.0
    rig.dialer.otherwise = None
    await trio.sleep(2.0)
    await rig.put(BEAT)
    assert rig.report.told[-1][1] == "alive"


async def test_a_process_killed_just_after_it_was_found_is_dead_within_a_tenth_of_a_second(
    rig: _Rig, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    await _started(rig, nursery)
    rig.dialer.otherwise = REFUSED
    await rig.put(BEAT, BROKEN)
    await trio.sleep(0.5)
    (died_at, text) = rig.report.told[1]
    assert died_at <= 0.1
    assert text.startswith("dead: ")


async def test_a_network_that_swallows_everything_is_told_apart_from_a_dead_process(
    rig: _Rig, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    await _started(rig, nursery)
    await rig.put(BEAT)
    await rig.beat_for(2.0)
    rig.dialer.otherwise = 2.0
    await rig.put(BROKEN)
    await trio.sleep(2.9)
    assert [text for _, text in rig.report.told] == [
        "alive",
        "suspect: no state for 1.5 s; connection reset by peer",
    ]
    await trio.sleep(0.2)
    assert rig.report.told[2] == (5.0, "dead: no state for 3.0 s; no answer within 2 s")


async def test_a_stream_that_breaks_and_comes_back_was_never_dead(
    rig: _Rig, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    await _started(rig, nursery)
    await rig.put(BEAT)
    await rig.beat_for(2.0)
    await rig.put(BROKEN)
    assert rig.dialer.dialled_at == [0.0, 2.0]
    await rig.put(BEAT)
    await rig.beat_for(2.0)
    assert rig.report.told == [(0.0, "alive")]


async def test_a_peer_that_was_never_there_is_dead_with_its_reason_and_dialled_for_ever(
    rig: _Rig, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    rig.dialer.otherwise = REFUSED
    await _started(rig, nursery)
    await trio.sleep(60.0)
    assert rig.report.told == [(0.0, "dead: cannot connect to x:1: connection refused")]
    gaps = [later - earlier for earlier, later in zip(rig.dialer.dialled_at, rig.dialer.dialled_at[1:], strict=False)]
    assert 0.05 <= gaps[0] <= 0.1
    assert all(1.0 <= gap <= 2.01 for gap in gaps[5:])
    assert 30 <= len(gaps) <= 60


async def test_somebody_else_at_that_address_is_no_living_peer(
    rig: _Rig, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    rig.dialer.otherwise = DialFailed("peer refused (node): is node 'b', expected node 'gpu-a'", proven=True)
    await _started(rig, nursery)
    assert rig.report.told == [(0.0, "dead: peer refused (node): is node 'b', expected node 'gpu-a'")]


async def test_a_peer_that_declines_to_stream_is_dead_only_by_its_silence(
    rig: _Rig, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    rig.dialer.otherwise = StreamEnded("RESOURCE_EXHAUSTED: 1 subscribers are served already")
    await _started(rig, nursery)
    await trio.sleep(4.0)
    assert rig.report.told[0] == (
        3.0,
        "dead: no state for 3.0 s; RESOURCE_EXHAUSTED: 1 subscribers are served already",
    )


async def test_a_peer_that_breaks_the_protocol_loses_its_stream_and_may_try_again(
    rig: _Rig, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    await _started(rig, nursery)
    wrong = _delta(_state())
    wrong.model_state.kv_usage = math.nan
    await rig.put(wrong)
    assert rig.report.states == []
    assert rig.report.told == [(0.0, "refused: malformed")]
    assert rig.dialer.open_streams == 0
    await trio.sleep(0.2)
    await rig.put(_delta(_state()))
    assert rig.report.states == [_state()]


async def test_a_state_of_another_node_is_refused_counted_and_logged_once(
    rig: _Rig, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    await _started(rig, nursery)
    await rig.put(_delta(_state(node="gpu-b")), _delta(_gpu(node="gpu-b")))
    await rig.put(_delta(_state("mine")))
    assert rig.report.states == [_state("mine")]
    assert rig.report.gpus == []
    assert [text for _, text in rig.report.told].count("refused: other_node") == 2
    assert rig.log.fields_of("peer_state_refused") == [{"peer": NODE, "reason": "other_node", "about": "gpu-b"}]


async def test_a_peer_cannot_bring_models_without_end(
    rig: _Rig, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    await _started(rig, nursery)
    for name in ("a", "b", "c", "d", "a", "e"):
        await rig.put(_delta(_state(name)))
    assert [state.model for state in rig.report.states] == ["a", "b", "c", "a"]
    assert [text for _, text in rig.report.told].count("refused: too_many_models") == 2
    assert len(rig.log.events) == 1


async def test_round_trips_are_measured_while_it_lives_and_their_failures_ignored(
    rig: _Rig, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    await _started(rig, nursery)
    await rig.put(BEAT)
    await rig.beat_for(10.0)
    measured = list(rig.report.rtts_s)
    assert 4 <= len(measured) <= 8
    assert measured == pytest.approx([0.004] + [0.002] * (len(measured) - 1))
    rig.dialer.rtt_s = StreamEnded("broken")
    await rig.beat_for(10.0)
    assert len(rig.report.rtts_s) == len(measured)
    assert rig.report.told == [(0.0, "alive")]


async def test_the_first_stream_asks_for_everything_and_the_next_goes_on_where_it_broke(
    rig: _Rig, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    await _started(rig, nursery)
    await rig.put(_delta(_state("a"), position=3), _delta(_state("b"), position=5), BROKEN)
    await trio.sleep(0.5)
    await rig.put(_beat(5), _delta(_state("b", 2), position=6), BROKEN)
    await trio.sleep(0.5)
    assert rig.dialer.starts == [
        NOWHERE,
        SubscribeStart(epoch=7, resume_after=5),
        SubscribeStart(epoch=7, resume_after=6),
    ]
    assert [text for _, text in rig.report.told] == ["alive", "alive"]


async def test_only_a_new_life_of_the_publisher_lets_sequences_begin_anew(
    rig: _Rig, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    await _started(rig, nursery)
    await rig.put(_beat(5), BROKEN)
    await trio.sleep(0.5)
    await rig.put(_beat(5), BROKEN)
    await trio.sleep(0.5)
    await rig.put(_beat(1, epoch=8), BROKEN)
    await trio.sleep(0.5)
    assert rig.report.new_streams == [True, False, True]
    assert rig.dialer.starts[-1] == SubscribeStart(epoch=8, resume_after=1)


async def test_after_a_death_everything_is_asked_for_again(
    rig: _Rig, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    await _started(rig, nursery)
    await rig.put(_delta(_state("a"), position=3))
    await trio.sleep(5.0)
    assert [text.partition(":")[0] for _, text in rig.report.told] == ["alive", "suspect", "dead"]
    assert rig.dialer.starts == [NOWHERE, NOWHERE]
    await rig.put(_delta(_state("a"), position=3))
    assert rig.report.states == [_state("a"), _state("a")]
    assert rig.report.new_streams == [True, True]


async def test_a_proven_death_forgets_the_position_too(
    rig: _Rig, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    await _started(rig, nursery)
    await rig.put(_delta(_state("a"), position=3))
    rig.dialer.meets = [REFUSED]
    await rig.put(BROKEN)
    await trio.sleep(1.0)
    assert rig.dialer.starts == [NOWHERE, SubscribeStart(epoch=7, resume_after=3), NOWHERE]


async def test_what_was_taken_over_is_acknowledged_at_heartbeats_and_once(
    rig: _Rig, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    await _started(rig, nursery)
    stream = rig.dialer.stream
    await rig.put(BEAT)
    assert stream.acks == []
    await rig.put(_delta(_state("a"), position=1), _delta(_state("b"), position=2))
    assert stream.acks == []
    await rig.put(_beat(2), _beat(2), _delta(_state("a", 2), position=3), _beat(3))
    assert stream.acks == [2, 3]


async def test_a_stream_that_breaks_while_it_is_acknowledged_is_dialled_again(
    rig: _Rig, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    await _started(rig, nursery)
    rig.dialer.stream.breaks_at_ack = True
    await rig.put(_delta(_state("a"), position=1), _beat(1))
    await trio.sleep(0.5)
    assert rig.dialer.starts[1:] == [SubscribeStart(epoch=7, resume_after=1)]


async def test_cancelled_at_any_moment_nothing_stays_open(autojump_clock: MockClock) -> None:
    async def script(rig: _Rig) -> None:
        await trio.sleep(0.3)
        await rig.put(BEAT)
        await trio.sleep(0.5)
        rig.dialer.meets = [REFUSED, 1.0]
        await rig.put(BROKEN)

    for tenths in range(0, 40, 3):
        rig = _Rig()
        with trio.move_on_after(tenths / 10 + 0.05):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(script, rig)
                await rig.run()
        assert (rig.dialer.open_streams, rig.dialer.closed) == (0, 1)
