from __future__ import annotations

import msgspec
import pytest
import trio
from trio.testing import MockClock

from infermesh.core.model.names import ModelName, NodeId
from infermesh.core.model.state import GpuHealth, GpuState, Lifecycle, ModelState
from infermesh.planes.signal.codec import Delta, Heartbeat, read_delta
from infermesh.planes.signal.publisher import Publisher, PublisherConfig, SubscriberStalled, TooManySubscribers
from infermesh.testing.recorded_log import RecordedLog
from wire.proto.infermesh.state.v1.state_pb2 import StateDelta, SubscribeStart

START = SubscribeStart()
EPOCH = 5_000  # Of a publisher that is made at 5 s.

GPU = GpuState(
    node=NodeId("gpu-a"),
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


def _state(model: str, sequence: int) -> ModelState:
    return ModelState(
        node=NodeId("gpu-a"),
        model=ModelName(model),
        runtime="fake",
        incarnation=1,
        sequence=sequence,
        source_time=0.0,
        lifecycle=Lifecycle.READY,
    )


class _Listener:
    """A subscriber whose back-pressure is a switch."""

    def __init__(self) -> None:
        self.seen: list[tuple[float, Delta | None]] = []
        self.positions: list[int] = []
        self.drains = trio.Event()
        self.drains.set()
        self.broken = False

    async def send(self, delta: StateDelta) -> None:
        await trio.lowlevel.checkpoint()
        await self.drains.wait()
        if self.broken:
            raise trio.BrokenResourceError
        self.seen.append((round(trio.current_time(), 3), read_delta(delta)))
        assert delta.epoch == EPOCH
        self.positions.append(delta.position)

    def models(self) -> list[tuple[str, int]]:
        return [(delta.model, delta.sequence) for _, delta in self.seen if isinstance(delta, ModelState)]


def _publisher(log: RecordedLog | None = None, config: PublisherConfig | None = None) -> Publisher:
    return Publisher(log if log is not None else RecordedLog(), config, unix_time=lambda: 5.0)


async def test_a_subscriber_gets_what_is_known_and_then_each_news_at_once(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    publisher, listener = _publisher(), _Listener()
    publisher.report(_state("a", 1))
    publisher.report_gpu(GPU)
    nursery.start_soon(publisher.serve, listener.send, START)
    await trio.sleep(0.1)
    assert listener.seen == [(0.0, _state("a", 1)), (0.0, GPU)]
    publisher.report(_state("a", 2))
    publisher.report(_state("b", 3))
    await trio.sleep(0.1)
    assert listener.seen[2:] == [(0.1, _state("a", 2)), (0.1, _state("b", 3))]


async def test_silence_is_filled_with_heartbeats_at_their_pace(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    publisher, listener = _publisher(), _Listener()
    nursery.start_soon(publisher.serve, listener.send, START)
    await trio.sleep(1.2)
    publisher.report(_state("a", 1))
    await trio.sleep(0.8)
    assert listener.seen == [
        (0.0, Heartbeat(1, 5.0)),
        (0.5, Heartbeat(2, 5.0)),
        (1.0, Heartbeat(3, 5.0)),
        (1.2, _state("a", 1)),
        (1.7, Heartbeat(4, 5.0)),
    ]


async def test_a_slow_subscriber_gets_the_newest_of_each_model_and_holds_up_nobody(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    publisher, slow, quick = _publisher(), _Listener(), _Listener()
    nursery.start_soon(publisher.serve, slow.send, START)
    nursery.start_soon(publisher.serve, quick.send, START)
    await trio.sleep(0.1)
    slow.drains = trio.Event()
    for sequence in range(100):
        publisher.report(_state("a", sequence))
        publisher.report(_state("b", sequence))
        await trio.sleep(0.01)
    assert len(quick.models()) == 200
    slow.drains.set()
    await trio.sleep(0.01)
    # One write was under way when it stopped; then only the newest of each.
    assert slow.models() == [("a", 0), ("b", 0), ("a", 99), ("b", 99)]


async def test_reports_without_a_subscriber_cost_one_entry_per_model(autojump_clock: MockClock) -> None:
    publisher = _publisher(config=PublisherConfig(entries_max=3))
    for sequence in range(1000):
        publisher.report(_state("abcde"[sequence % 5], sequence))
    listener = _Listener()
    with trio.move_on_after(0.1):
        await publisher.serve(listener.send, START)
    assert listener.models() == [("c", 997), ("d", 998), ("e", 999)]


async def test_two_runtimes_of_one_model_are_told_apart(autojump_clock: MockClock) -> None:
    publisher, listener = _publisher(), _Listener()
    for replica in range(2):
        publisher.report(msgspec.structs.replace(_state("a", replica), replica=replica))
    with trio.move_on_after(0.1):
        await publisher.serve(listener.send, START)
    assert listener.models() == [("a", 0), ("a", 1)]


async def test_a_subscriber_that_was_cut_off_goes_on_where_it_was(autojump_clock: MockClock) -> None:
    publisher, listener = _publisher(), _Listener()
    for sequence, model in enumerate("abca"):
        publisher.report(_state(model, sequence))
    with trio.move_on_after(0.1):
        await publisher.serve(listener.send, SubscribeStart(epoch=EPOCH, resume_after=2))
    assert listener.models() == [("c", 2), ("a", 3)]
    assert listener.positions == [3, 4]


async def test_a_position_of_another_life_counts_for_nothing(autojump_clock: MockClock) -> None:
    publisher, listener = _publisher(), _Listener()
    publisher.report(_state("a", 1))
    with trio.move_on_after(0.1):
        await publisher.serve(listener.send, SubscribeStart(epoch=EPOCH - 1, resume_after=7))
    assert listener.models() == [("a", 1)]


async def test_a_heartbeat_says_how_far_everything_has_been_sent(autojump_clock: MockClock) -> None:
    publisher, listener = _publisher(), _Listener()
    publisher.report(_state("a", 1))
    publisher.report(_state("a", 2))
    with trio.move_on_after(0.6):
        await publisher.serve(listener.send, START)
    assert [type(delta) for _, delta in listener.seen] == [ModelState, Heartbeat]
    assert listener.positions == [2, 2]


async def test_a_subscriber_that_takes_nothing_is_cut_off_and_told_of(autojump_clock: MockClock) -> None:
    log = RecordedLog()
    publisher, listener = _publisher(log), _Listener()
    listener.drains = trio.Event()
    began = trio.current_time()
    with pytest.raises(SubscriberStalled):
        await publisher.serve(listener.send, START)
    assert trio.current_time() - began == pytest.approx(10.0)
    assert log.events == [("state_subscriber_stalled", {"after_s": 10.0})]
    assert publisher.subscribers == 0


async def test_a_subscriber_that_only_reads_is_never_cut_off(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    log = RecordedLog()
    publisher, listener = _publisher(log), _Listener()
    nursery.start_soon(publisher.serve, listener.send, START)
    await trio.sleep(1000.0)
    assert (publisher.subscribers, log.events) == (1, [])


async def test_a_subscriber_above_the_limit_is_refused(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    publisher = _publisher(config=PublisherConfig(subscribers_max=1))
    nursery.start_soon(publisher.serve, _Listener().send, START)
    await trio.sleep(0.1)
    with pytest.raises(TooManySubscribers, match="1 subscribers are served already"):
        await publisher.serve(_Listener().send, START)
    assert publisher.subscribers == 1


async def test_a_subscriber_that_goes_away_frees_its_place(autojump_clock: MockClock) -> None:
    publisher, listener = _publisher(), _Listener()
    listener.broken = True
    with pytest.raises(trio.BrokenResourceError):
        await publisher.serve(listener.send, START)
    assert publisher.subscribers == 0


async def test_cancelled_at_each_step_no_place_stays_taken(autojump_clock: MockClock) -> None:
    publisher = _publisher()
    publisher.report(_state("a", 1))
    for checkpoints in range(8):
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as inner:
                inner.start_soon(publisher.serve, _Listener().send, START)
                for _ in range(checkpoints):
                    await trio.lowlevel.checkpoint()
                scope.cancel()
        assert publisher.subscribers == 0


async def test_a_state_reported_while_a_write_is_under_way_is_not_lost(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    publisher, listener = _publisher(), _Listener()
    listener.drains = trio.Event()
    nursery.start_soon(publisher.serve, listener.send, START)
    await trio.sleep(0.1)
    publisher.report(msgspec.structs.replace(_state("a", 1), queue_len=9))
    listener.drains.set()
    await trio.sleep(0.01)
    assert listener.models() == [("a", 1)]
