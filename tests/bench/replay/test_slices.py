"""The replay benchmark's own slices, by small cases whose answers are known."""

from __future__ import annotations

import pytest

from infermesh.sim.node import make_nodes
from infermesh.sim.trace import TraceRequest
from tests.bench.replay.slices import SliceOptions, as_trace, cut, new_tokens, prompt_tokens_per_s

TRACE = [TraceRequest(10.0 * number, 1_000, 100, ()) for number in range(100)]
OPTIONS = SliceOptions(load=0.5, seconds=10.0, output_tokens_max=64)


def test_a_fleet_computes_what_its_engines_compute_with_full_steps() -> None:
    # 8,192 tokens in 15 + 0.2 + 0.063 x 8,192 ms.
    assert prompt_tokens_per_s(make_nodes("h100")) == pytest.approx(8_192 / 0.531296, rel=1e-4)
    assert prompt_tokens_per_s(make_nodes("h100:2,h100")) == pytest.approx(3 * 8_192 / 0.531296, rel=1e-4)


def test_a_slice_is_as_many_requests_as_make_the_load_for_the_seconds() -> None:
    piece = cut("t", TRACE, 0, 4_000.0, OPTIONS)
    # Half of 4,000 tokens a second for 10 s.
    assert len(piece.arrivals) == 20
    assert piece.new_tokens == 20_000
    assert piece.span_s == 10.0
    assert piece.arrivals[-1].at_s == pytest.approx(10.0)
    assert {arrival.output_tokens for arrival in piece.arrivals} == {64}


def test_the_next_slice_begins_where_this_one_ended_and_at_its_own_zero() -> None:
    piece = cut("t", TRACE, cut("t", TRACE, 0, 4_000.0, OPTIONS).next_request, 4_000.0, OPTIONS)
    assert (piece.first_request, piece.next_request) == (20, 40)
    assert piece.arrivals[0].at_s == 0.0


def test_a_slice_at_the_end_of_the_trace_is_shorter_at_the_same_load() -> None:
    piece = cut("t", TRACE, 90, 4_000.0, OPTIONS)
    assert len(piece.arrivals) == 10
    assert piece.span_s == 5.0


def test_past_the_end_of_the_trace_it_begins_anew() -> None:
    assert cut("t", TRACE, 100, 4_000.0, OPTIONS).first_request == 0


def test_only_tokens_past_the_prefix_that_was_sent_before_are_work() -> None:
    seen: set[int] = set()
    assert new_tokens(TraceRequest(0.0, 1_100, 1, (1, 2, 3)), seen) == 1_100
    assert new_tokens(TraceRequest(0.0, 1_100, 1, (1, 2, 4)), seen) == 1_100 - 1_024
    assert new_tokens(TraceRequest(0.0, 1_024, 1, (1, 2)), seen) == 1
    assert new_tokens(TraceRequest(0.0, 600, 1, (9, 2)), seen) == 600


def test_the_simulator_gets_the_same_requests_at_the_same_times() -> None:
    piece = cut("t", TRACE, 0, 4_000.0, OPTIONS)
    trace = as_trace(piece)
    assert [request.arrival_s for request in trace] == [arrival.at_s for arrival in piece.arrivals]
    assert {(request.prompt_tokens, request.output_tokens) for request in trace} == {(1_000, 64)}
