import pytest

from infermesh.core.routing.prefix import ENDS
from infermesh.sim.trace import TraceRequest
from infermesh.sim.workload import make_workload


def test_speed_divides_the_times() -> None:
    trace = [TraceRequest(0.0, 10, 1, ()), TraceRequest(6.0, 10, 1, ())]
    assert [request.arrival_s for request in make_workload(trace, speed=2.0)] == [0.0, 3.0]


def test_requests_of_one_tick_are_spread_over_it() -> None:
    trace = [TraceRequest(at, 10, 1, ()) for at in (0.0, 0.0, 0.0, 3.0, 3.0, 6.0)]
    assert [request.arrival_s for request in make_workload(trace)] == [0.0, 1.0, 2.0, 3.0, 4.5, 6.0]


def test_equal_block_ids_become_equal_text() -> None:
    trace = [
        TraceRequest(0.0, 2048, 1, (0, 1, 2, 3)),
        TraceRequest(1.0, 2048, 1, (0, 1, 8, 9)),
        TraceRequest(2.0, 2048, 1, (7, 1, 2, 3)),
    ]
    first, second, third = (request.facts.blocks for request in make_workload(trace, bytes_per_token=4.0))
    shared_bytes = 2 * 512 * 4
    same = sum(1 for one, other in zip(first, second, strict=True) if one == other)
    assert ENDS[same - 1] == shared_bytes
    assert not set(first) & set(third)


def test_prompts_of_a_trace_that_tells_nothing_are_all_new() -> None:
    trace = [TraceRequest(0.0, 1000, 1, ()), TraceRequest(1.0, 1000, 1, ())]
    first, second = make_workload(trace)
    assert first.engine_blocks == ()
    assert not set(first.facts.blocks) & set(second.facts.blocks)


@pytest.mark.parametrize("bytes_per_token", [1.0, 4.4, 12.0])
def test_prompts_are_as_long_as_the_trace_says(bytes_per_token: float) -> None:
    trace = [TraceRequest(0.0, 1300, 1, (5, 6, 7)), TraceRequest(1.0, 1700, 1, (5, 6, 7))]
    for request, original in zip(make_workload(trace, bytes_per_token=bytes_per_token), trace, strict=True):
        assert request.facts.prompt_bytes == round(original.prompt_tokens * bytes_per_token)


def test_the_engine_shares_whole_blocks_only() -> None:
    [request] = make_workload([TraceRequest(0.0, 1300, 1, (5, 6, 7))])
    assert request.engine_blocks == (5, 6)
