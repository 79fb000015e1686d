import random
import timeit

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from infermesh.observe.families import Value
from infermesh.observe.tracing import WAKE_AT, SpanRecord, Tracer


def _tracer(spans_max: int = 8192, *, enabled: bool = True) -> Tracer:
    return Tracer(random.Random(1), enabled=enabled, recorded=Value(), dropped=Value(), spans_max=spans_max)


def _record(tracer: Tracer, name: str = "compute") -> None:
    tracer.record(name, 1, 2, b"a" * 32, b"b" * 16, b"c" * 16, attributes={"node": "gpu-a"})


def test_recorded_spans_are_taken_oldest_first() -> None:
    tracer = _tracer()
    for name in ("request", "router.choose", "compute"):
        _record(tracer, name)
    assert [span.name for span in tracer.take(2)] == ["request", "router.choose"]
    assert tracer.take(9) == [SpanRecord("compute", 1, 2, b"a" * 32, b"b" * 16, b"c" * 16, {"node": "gpu-a"})]
    assert tracer.take(9) == []


def test_a_full_buffer_drops_the_newest_span_and_counts_it() -> None:
    recorded, dropped = Value(), Value()
    tracer = Tracer(random.Random(1), enabled=True, recorded=recorded, dropped=dropped, spans_max=2)
    for name in ("a", "b", "c"):
        _record(tracer, name)
    assert (recorded.value, dropped.value) == (2, 1)
    assert [span.name for span in tracer.take(9)] == ["a", "b"]


def test_without_an_exporter_nothing_is_kept_nor_counted_as_lost() -> None:
    dropped = Value()
    tracer = Tracer(random.Random(1), enabled=False, recorded=Value(), dropped=dropped)
    _record(tracer)
    assert len(tracer) == 0
    assert dropped.value == 0


def test_ids_are_hexadecimal_of_the_right_length_and_never_zero() -> None:
    class Zero(random.Random):
        def getrandbits(self, bits: int, /) -> int:
            return 0

    tracer = _tracer()
    assert {len(tracer.new_span_id()) for _ in range(100)} == {16}
    assert len({tracer.new_trace_id() for _ in range(100)}) == 100
    zero = Tracer(Zero(), enabled=True, recorded=Value(), dropped=Value())
    assert zero.new_span_id() == b"0" * 15 + b"1"
    assert zero.new_trace_id() == b"0" * 31 + b"1"


async def test_a_full_batch_wakes_the_exporter_before_its_period(autojump_clock: MockClock) -> None:
    tracer = _tracer()
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(tracer.wait_many, 60.0)
        await wait_all_tasks_blocked()
        for _ in range(WAKE_AT):
            _record(tracer)
    assert trio.current_time() == began
    tracer.take(WAKE_AT)
    await tracer.wait_many(60.0)  # The one set before must not count twice.
    await tracer.wait_many(60.0)
    assert trio.current_time() - began == pytest.approx(60.0)


async def test_few_spans_wait_for_the_period(autojump_clock: MockClock) -> None:
    tracer = _tracer()
    _record(tracer)
    began = trio.current_time()
    await tracer.wait_many(2.0)
    assert trio.current_time() - began == pytest.approx(2.0)


async def test_the_offset_turns_trios_time_into_unix_time() -> None:
    tracer = _tracer()
    now = trio.current_time()
    assert now + tracer.unix_offset_s(now) > 1.6e9


def test_recording_stays_cheap() -> None:
    """Ten times the measured 0.7 us: this catches work moved onto the path, not a slow machine."""
    tracer = _tracer(spans_max=10**6)
    cost_s = min(timeit.repeat(lambda: _record(tracer), number=2000, repeat=7)) / 2000
    assert cost_s < 10e-6
