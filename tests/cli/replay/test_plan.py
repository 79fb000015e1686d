"""Arrivals made of a trace: when, how large, and how many."""

from __future__ import annotations

import pytest

from infermesh.cli.replay.plan import Arrival, PlanOptions, plan_arrivals, spread
from infermesh.sim.trace import TraceRequest

TRACE = (
    TraceRequest(0.0, 1000, 50, (1, 2)),
    TraceRequest(0.0, 600, 5, (1, 3)),
    TraceRequest(3.0, 10, 200, ()),
    TraceRequest(9.0, 20, 7, ()),
)


def test_times_are_divided_by_the_speed_and_answers_cut_to_the_most() -> None:
    assert plan_arrivals(TRACE, PlanOptions(speed=2.0, output_tokens_max=40)) == (
        Arrival(number=0, at_s=0.0, prompt_tokens=1000, output_tokens=40, block_ids=(1, 2)),
        Arrival(number=1, at_s=0.75, prompt_tokens=600, output_tokens=5, block_ids=(1, 3)),
        Arrival(number=2, at_s=1.5, prompt_tokens=10, output_tokens=40),
        Arrival(number=3, at_s=4.5, prompt_tokens=20, output_tokens=7),
    )


@pytest.mark.parametrize(
    ("options", "numbers"),
    [
        (PlanOptions(), [0, 1, 2, 3]),
        (PlanOptions(requests_max=2), [0, 1]),
        (PlanOptions(span_s_max=3.0), [0, 1, 2]),
        (PlanOptions(span_s_max=3.0, speed=3.0), [0, 1, 2, 3]),
        (PlanOptions(span_s_max=3.0, requests_max=1), [0]),
    ],
)
def test_a_plan_ends_at_its_count_or_its_span(options: PlanOptions, numbers: list[int]) -> None:
    assert [arrival.number for arrival in plan_arrivals(TRACE, options)] == numbers


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ([], []),
        ([4.0], [4.0]),
        ([0.0, 0.5, 2.0], [0.0, 0.5, 2.0]),
        ([0.0, 0.0, 0.0, 3.0, 6.0, 6.0], [0.0, 1.0, 2.0, 3.0, 6.0, 7.5]),
        ([5.0, 5.0], [5.0, 5.0]),
    ],
)
def test_requests_of_one_tick_are_spread_up_to_the_next(times: list[float], expected: list[float]) -> None:
    assert spread(times) == expected
