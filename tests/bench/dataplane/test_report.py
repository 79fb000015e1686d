"""What the benchmark makes of its samples."""

from __future__ import annotations

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
    tick_slip_p99_ms=None,
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


def test_the_worst_round_speaks_for_the_tick() -> None:
    rounds = [msgspec.structs.replace(SAMPLE, tick_slip_p99_ms=slip) for slip in (2.0, 10.0, 5.0)]
    table = summarise({"infermesh": {"w": rounds}})
    assert table["infermesh"]["w"].tick_slip_p99_ms == 10.0
    assert "99 of 100" in render(table, {"w": "request"}, [])
