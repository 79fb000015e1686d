"""The demo's requests: seeded, mixed, bounded when asked to be."""

from __future__ import annotations

import itertools

import pytest

from infermesh.cli.demo_load import LoadOptions, demo_arrivals


def test_the_same_seed_gives_the_same_requests() -> None:
    options = LoadOptions(rate_per_s=10.0, requests_max=50)
    assert list(demo_arrivals(options)) == list(demo_arrivals(options))


def test_the_rate_is_kept_over_many_requests() -> None:
    arrivals = list(demo_arrivals(LoadOptions(rate_per_s=20.0, requests_max=4_000)))
    assert arrivals[-1].at_s == pytest.approx(200.0, rel=0.05)
    assert [arrival.number for arrival in arrivals] == list(range(4_000))


def test_lengths_are_mixed_prefixes_are_shared_and_some_clients_leave() -> None:
    arrivals = list(demo_arrivals(LoadOptions(rate_per_s=10.0, requests_max=400)))
    tokens = sorted(arrival.prompt_tokens for arrival in arrivals)
    assert tokens[0] < 100
    assert tokens[-1] > 2_500
    first_blocks = [arrival.block_ids[0] for arrival in arrivals if arrival.block_ids]
    assert 0.3 < len(first_blocks) / len(arrivals) < 0.5
    assert len(set(first_blocks)) == 4
    leaving = [arrival for arrival in arrivals if arrival.cancel_after_tokens]
    assert len(leaving) == 20
    assert all(arrival.cancel_after_tokens < arrival.output_tokens for arrival in leaving)


def test_a_run_ends_at_its_count_or_its_span_and_else_never() -> None:
    assert len(list(demo_arrivals(LoadOptions(rate_per_s=1.0, requests_max=7)))) == 7
    assert all(arrival.at_s <= 3.0 for arrival in demo_arrivals(LoadOptions(rate_per_s=50.0, span_s_max=3.0)))
    endless = demo_arrivals(LoadOptions(rate_per_s=1_000.0))
    assert next(itertools.islice(endless, 10_000, None)).number == 10_000
