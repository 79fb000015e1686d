"""What the benchmark makes of its samples."""

from __future__ import annotations

import math

import msgspec

from tests.bench.dataplane.report import Sample, render, summarise

SAMPLE = Sample(
    cpu_us=20.0,
    rate_per_s=1000.0,
    utilisation=0.02,
    rss_mib=30.0,
    latency_p50_ms=1.0,
    latency_p99_ms=2.0,
    foreign=0.01,
    opening_ticks={},
    window_ticks={},
    errors=0,
    first_error="",
)


def with_cpu(*cpu_us: float) -> list[Sample]:
    return [msgspec.structs.replace(SAMPLE, cpu_us=value) for value in cpu_us]


def test_ratios_are_of_medians_and_of_minima_in_the_same_run() -> None:
    table = summarise({"nginx": {"w": with_cpu(10, 20, 90)}, "infermesh": {"w": with_cpu(30, 50, 40)}})
    cell = table["infermesh"]["w"]
    assert (cell.cpu_us_median, cell.cpu_us_min) == (40, 30)
    assert cell.ratio_median == {"nginx": 2.0}
    assert cell.ratio_min == {"nginx": 3.0}


def test_one_error_in_one_round_makes_the_cell_invalid_and_shows_the_error() -> None:
    bad = msgspec.structs.replace(SAMPLE, errors=1, first_error="stream s7 had no end")
    table = summarise({"nginx": {"w": [SAMPLE]}, "infermesh": {"w": [SAMPLE, bad, SAMPLE]}})
    assert not table["infermesh"]["w"].valid
    shown = render(table, {"w": "request"}, [])
    assert "INVALID infermesh w: stream s7 had no end" in shown
    assert "invalid" in shown


def test_an_invalid_yardstick_is_not_compared_with() -> None:
    bad = msgspec.structs.replace(SAMPLE, errors=1)
    table = summarise({"nginx": {"w": [bad]}, "infermesh": {"w": [SAMPLE]}})
    assert table["infermesh"]["w"].ratio_median == {}


def test_other_work_on_a_measured_core_is_told() -> None:
    noisy = msgspec.structs.replace(SAMPLE, foreign=0.4)
    assert "NOISY: other work used up to 40%" in render(summarise({"nginx": {"w": [noisy]}}), {"w": "request"}, [])
    assert "NOISY" not in render(summarise({"nginx": {"w": [SAMPLE]}}), {"w": "request"}, [])


def test_a_router_that_never_ran_has_no_row() -> None:
    assert "infermesh" not in summarise({"nginx": {"w": [SAMPLE]}, "infermesh": {"w": []}})


def test_ticks_of_all_rounds_are_judged_together_and_apart_from_those_of_the_opening() -> None:
    late = msgspec.structs.replace(
        SAMPLE, window_ticks={0.01: 50.0, 0.1: 50.0, math.inf: 50.0}, opening_ticks={0.01: 0.0, 0.1: 5.0, math.inf: 5.0}
    )
    later = msgspec.structs.replace(late, window_ticks={0.01: 49.0, 0.1: 50.0, math.inf: 50.0})
    cell = summarise({"infermesh": {"w": [late, later]}})["infermesh"]["w"]
    assert (cell.ticks, cell.tick_slip_p99_ms, cell.tick_slip_opening_p99_ms) == (100, 10.0, 100.0)
    assert "10 / 100" in render({"infermesh": {"w": cell}}, {"w": "request"}, [])
