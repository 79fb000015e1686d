from __future__ import annotations

from collections.abc import Sequence

import msgspec
import pytest
import trio
from trio.testing import MockClock

from infermesh.core.model.names import ModelName, NodeId
from infermesh.core.model.state import GpuHealth, GpuState, Lifecycle, ModelState
from infermesh.planes.signal.codec import Delta, Heartbeat, decode_delta
from infermesh.planes.signal.publisher import STREAM_CONTENT_TYPE, Publisher, PublisherConfig
from infermesh.testing.recorded_log import RecordedLog
from wire.proto.delimited import DelimitedDecoder

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


class _Response:
    """A response whose back-pressure is a switch."""

    def __init__(self) -> None:
        self.head: tuple[int, list[tuple[bytes, bytes]]] | None = None
        self.seen: list[tuple[float, Delta | None]] = []
        self.body = b""
        self.largest_write_bytes = 0
        self.drains = trio.Event()
        self.drains.set()
        self.finished = False
        self.broken = False
        self._decoder = DelimitedDecoder()

    async def start(self, status: int, headers: Sequence[tuple[bytes, bytes]]) -> None:
        self.head = (status, list(headers))
        await trio.lowlevel.checkpoint()

    async def write(self, data: bytes) -> None:
        self.largest_write_bytes = max(self.largest_write_bytes, len(data))
        self.body += data
        await trio.lowlevel.checkpoint()
        await self.drains.wait()
        if self.broken:
            raise trio.BrokenResourceError
        if self.head is not None and self.head[0] == 200:
            now = round(trio.current_time(), 3)
            self.seen += [(now, decode_delta(message)) for message in self._decoder.feed(data)]

    async def finish(self) -> None:
        self.finished = True
        await trio.lowlevel.checkpoint()

    def models(self) -> list[tuple[str, int]]:
        return [(delta.model, delta.sequence) for _, delta in self.seen if isinstance(delta, ModelState)]


def _publisher(log: RecordedLog | None = None, config: PublisherConfig | None = None) -> Publisher:
    return Publisher(log if log is not None else RecordedLog(), config, unix_time=lambda: 5.0)


async def test_a_subscriber_gets_what_is_known_and_then_each_news_at_once(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    publisher, response = _publisher(), _Response()
    publisher.report(_state("a", 1))
    publisher.report_gpu(GPU)
    nursery.start_soon(publisher.serve, response)
    await trio.sleep(0.1)
    assert response.head == (200, [(b"content-type", STREAM_CONTENT_TYPE)])
    assert response.seen == [(0.0, _state("a", 1)), (0.0, GPU)]
    publisher.report(_state("a", 2))
    publisher.report(_state("b", 3))
    await trio.sleep(0.1)
    assert response.seen[2:] == [(0.1, _state("a", 2)), (0.1, _state("b", 3))]


async def test_silence_is_filled_with_heartbeats_at_their_pace(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    publisher, response = _publisher(), _Response()
    nursery.start_soon(publisher.serve, response)
    await trio.sleep(1.2)
    publisher.report(_state("a", 1))
    await trio.sleep(0.8)
    assert response.seen == [
        (0.0, Heartbeat(1, 5.0)),
        (0.5, Heartbeat(2, 5.0)),
        (1.0, Heartbeat(3, 5.0)),
        (1.2, _state("a", 1)),
        (1.7, Heartbeat(4, 5.0)),
    ]


async def test_a_slow_subscriber_gets_the_newest_of_each_model_and_holds_up_nobody(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    publisher, slow, quick = _publisher(), _Response(), _Response()
    nursery.start_soon(publisher.serve, slow)
    nursery.start_soon(publisher.serve, quick)
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
    response = _Response()
    with trio.move_on_after(0.1):
        await publisher.serve(response)
    assert response.models() == [("c", 997), ("d", 998), ("e", 999)]


async def test_two_runtimes_of_one_model_are_told_apart(autojump_clock: MockClock) -> None:
    publisher, response = _publisher(), _Response()
    for replica in range(2):
        publisher.report(msgspec.structs.replace(_state("a", replica), replica=replica))
    with trio.move_on_after(0.1):
        await publisher.serve(response)
    assert response.models() == [("a", 0), ("a", 1)]


async def test_many_states_go_out_in_writes_of_bounded_size(autojump_clock: MockClock) -> None:
    publisher, response = _publisher(), _Response()
    for number in range(1000):
        publisher.report(_state(f"model-{number}", 1))
    with trio.move_on_after(0.1):
        await publisher.serve(response)
    assert len(response.models()) == 1000
    assert response.largest_write_bytes <= 16_384


async def test_a_subscriber_that_takes_nothing_is_cut_off_and_told_of(autojump_clock: MockClock) -> None:
    log = RecordedLog()
    publisher, response = _publisher(log), _Response()
    response.drains = trio.Event()
    began = trio.current_time()
    await publisher.serve(response)
    assert trio.current_time() - began == pytest.approx(10.0)
    assert log.events == [("state_subscriber_stalled", {"after_s": 10.0})]
    assert (response.finished, publisher.subscribers) == (False, 0)


async def test_a_subscriber_that_only_reads_is_never_cut_off(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    log = RecordedLog()
    publisher, response = _publisher(log), _Response()
    nursery.start_soon(publisher.serve, response)
    await trio.sleep(1000.0)
    assert (publisher.subscribers, log.events) == (1, [])


async def test_a_subscriber_above_the_limit_is_refused(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    publisher = _publisher(config=PublisherConfig(subscribers_max=1))
    nursery.start_soon(publisher.serve, _Response())
    await trio.sleep(0.1)
    refused = _Response()
    await publisher.serve(refused)
    assert refused.head is not None
    assert refused.head[0] == 503
    assert (b"retry-after", b"1") in refused.head[1]
    assert (refused.body, refused.finished) == (b"1 subscribers are served already", True)
    assert publisher.subscribers == 1


async def test_a_subscriber_that_goes_away_frees_its_place(autojump_clock: MockClock) -> None:
    publisher, response = _publisher(), _Response()
    response.broken = True
    with pytest.raises(trio.BrokenResourceError):
        await publisher.serve(response)
    assert publisher.subscribers == 0


async def test_cancelled_at_each_step_no_place_stays_taken(autojump_clock: MockClock) -> None:
    publisher = _publisher()
    publisher.report(_state("a", 1))
    for checkpoints in range(8):
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as inner:
                inner.start_soon(publisher.serve, _Response())
                for _ in range(checkpoints):
                    await trio.lowlevel.checkpoint()
                scope.cancel()
        assert publisher.subscribers == 0


async def test_a_state_reported_while_a_write_is_under_way_is_not_lost(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    publisher, response = _publisher(), _Response()
    response.drains = trio.Event()
    nursery.start_soon(publisher.serve, response)
    await trio.sleep(0.1)
    publisher.report(msgspec.structs.replace(_state("a", 1), queue_len=9))
    response.drains.set()
    await trio.sleep(0.01)
    assert response.models() == [("a", 1)]
