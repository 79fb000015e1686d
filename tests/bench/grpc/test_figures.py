"""From samples to the table: what is a median, what is a ratio, and what makes a figure worthless."""

from __future__ import annotations

import pytest

from tests.bench.grpc.figures import Sample, Samples, cell_of, ratio, render


def _sample(cpu_us: float, *, errors: int = 0, foreign: float = 0.0) -> Sample:
    return Sample(
        cpu_us=cpu_us,
        rate_per_s=1000.0,
        utilisation=0.5,
        rss_mib=50.0,
        mean_ms=1.0,
        foreign=foreign,
        errors=errors,
        first_error="h2load: 1 of 2 calls failed" if errors else "",
    )


def _samples(**rows: list[Sample]) -> Samples:
    samples = Samples("a part", {"unary": "call"})
    for row, rounds in rows.items():
        for sample in rounds:
            samples.add(row, "unary", sample)
    return samples


def test_a_cell_is_the_median_and_the_least_of_its_rounds() -> None:
    cell = cell_of([_sample(30.0), _sample(10.0), _sample(11.0)])
    assert (cell.cpu_us_median, cell.cpu_us_min, cell.rounds, cell.valid) == (11.0, 10.0, 3, True)


def test_a_ratio_is_of_medians_and_of_minima_of_the_same_workload() -> None:
    table = _samples(ours=[_sample(30.0), _sample(20.0)], theirs=[_sample(10.0), _sample(20.0)]).table()
    found = ratio(table, "unary", "ours", "theirs")
    assert found is not None
    assert found[0] == pytest.approx(25 / 15)
    assert found[1] == 2.0
    assert ratio(table, "unary", "ours", "nobody") is None


def test_one_error_makes_a_cell_and_its_ratio_invalid_and_is_said() -> None:
    samples = _samples(ours=[_sample(30.0), _sample(1.0, errors=1)], theirs=[_sample(10.0)])
    assert ratio(samples.table(), "unary", "ours", "theirs") is None
    text = render(samples, [("ours", "theirs")])
    assert "INVALID ours unary: h2load: 1 of 2 calls failed" in text
    assert "1.0" not in text.split("CPU ratios")[0].split("ours", 1)[1].splitlines()[0]


def test_other_work_on_the_core_is_said() -> None:
    assert "NOISY" not in render(_samples(ours=[_sample(10.0)]), [])
    assert "NOISY: other work used up to 42%" in render(_samples(ours=[_sample(10.0, foreign=0.42)]), [])


def test_a_row_that_could_not_run_is_in_the_table_of_reasons() -> None:
    samples = _samples(ours=[_sample(10.0)])
    samples.skipped["envoy"] = "no wheel for this machine"
    assert "SKIPPED envoy: no wheel for this machine" in render(samples, [("ours", "envoy")])
