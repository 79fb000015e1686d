"""Reading meshd's tick histogram."""

from __future__ import annotations

import math

from tests.bench.dataplane.tick import BOUND_MAX_S, added, difference, parse_counts, quantile_bound_ms

PAGE = """# HELP infermesh_tick_slip_seconds Lateness of a 50 ms tick.
# TYPE infermesh_tick_slip_seconds histogram
infermesh_tick_slip_seconds_bucket{le="0.001"} 90.0
infermesh_tick_slip_seconds_bucket{le="0.02"} 99.0
infermesh_tick_slip_seconds_bucket{le="+Inf"} 100.0
infermesh_tick_slip_seconds_count 100.0
infermesh_tick_slip_seconds_sum 0.3
other_bucket{le="0.001"} 7
"""


def test_buckets_are_found_with_and_without_further_labels() -> None:
    expected = {0.001: 90.0, 0.02: 99.0, math.inf: 100.0}
    assert parse_counts(PAGE) == expected
    assert parse_counts(PAGE.replace('{le="', '{node="edge",le="')) == expected


def test_a_quantile_is_the_upper_bound_of_its_bucket_among_the_new_ticks() -> None:
    after = parse_counts(PAGE)
    assert quantile_bound_ms(after, 0.99) == 20.0
    assert quantile_bound_ms(after, 0.9) == 1.0
    before = {0.001: 90.0, 0.02: 98.0, math.inf: 98.0}
    assert quantile_bound_ms(difference(before, after), 0.99) == 1000 * BOUND_MAX_S


def test_no_ticks_give_no_figure() -> None:
    page = parse_counts(PAGE)
    assert quantile_bound_ms({}, 0.99) is None
    assert quantile_bound_ms(difference(page, page), 0.99) is None


def test_counts_of_several_rounds_add_up() -> None:
    assert added([{0.1: 1.0, math.inf: 2.0}, {0.1: 3.0, math.inf: 3.0}]) == {0.1: 4.0, math.inf: 5.0}
