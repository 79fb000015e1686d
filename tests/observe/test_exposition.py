import math
from collections.abc import Iterable

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from infermesh.observe.catalog import CounterSpec, GaugeSpec, HistogramSpec
from infermesh.observe.exposition import (
    AnyFamily,
    FamiliesCollector,
    number,
    render_families,
    wants_openmetrics,
)
from infermesh.observe.families import Counter, Gauge, Histogram

PROMETHEUS = (
    "application/openmetrics-text;version=1.0.0;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,"
    "text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("", False),
        ("*/*", False),
        ("text/plain", False),
        ("text/html,application/xhtml+xml,*/*;q=0.8", False),
        ("application/openmetrics-text", True),
        ("application/openmetrics-text; version=1.0.0; charset=utf-8", True),
        ("Application/OpenMetrics-Text;Q=1", True),
        (PROMETHEUS, True),
        ("text/plain;q=0.9, application/openmetrics-text;q=0.1", False),
        ("application/openmetrics-text;q=0", False),
        ("application/openmetrics-text;q=nonsense", False),
        (",;,;q=,", False),
        ("text/plain," * 100_000, False),
    ],
)
def test_the_format_is_what_the_reader_prefers(accept: str, expected: bool) -> None:
    assert wants_openmetrics(accept) is expected


def _families() -> list[AnyFamily]:
    counter = Counter(CounterSpec(name="infermesh_c_total", help="Counted.", labels=("model", "node")), None)
    counter.at("m", "a").value += 3
    counter.at('quo"te', "back\\slash\nline").value += 1.5
    counter.at("größe", "").value += 1
    gauge = Gauge(GaugeSpec(name="infermesh_g", help="Measured."), None)
    gauge.child().value = math.inf
    empty = Gauge(GaugeSpec(name="infermesh_e", help="Empty.", labels=("node",)), None)
    histogram = Histogram(
        HistogramSpec(name="infermesh_h_seconds", help="Spread.", labels=("model",), buckets=(0.001, 1.0, 30.0)),
        None,
    )
    for value in (0.0005, 0.5, 2.0, 300.0):
        histogram.at("m").observe(value)
    plain = Histogram(HistogramSpec(name="infermesh_p_seconds", help="Bare.", buckets=(1.0,)), None)
    plain.child().observe(0.25)
    return [counter, gauge, empty, histogram, plain]


def _floats(labels: dict[str, str]) -> dict[str, str]:
    return {name: str(float(value)) if name == "le" else value for name, value in sorted(labels.items())}


def _key(item: tuple[str, dict[str, str], float]) -> tuple[str, str]:
    return item[0], str(item[1])


def _registry() -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(FamiliesCollector(_families()))
    return registry


def test_the_text_format_says_what_prometheus_client_would_say() -> None:
    ours = "\n".join([*render_families(_families(), openmetrics=False), ""])
    theirs = generate_latest(_registry()).decode()
    assert _sorted_samples(parse_text(ours)) == _sorted_samples(parse_text(theirs))
    assert [line for line in ours.splitlines() if line.startswith("#")] == [
        line for line in theirs.splitlines() if line.startswith("#")
    ]


def test_openmetrics_says_what_prometheus_client_would_say() -> None:
    ours = "\n".join([*render_families(_families(), openmetrics=True), "# EOF", ""])
    theirs = generate_openmetrics(_registry()).decode()  # type: ignore[no-untyped-call]
    assert _sorted_samples(_openmetrics(ours)) == _sorted_samples(_openmetrics(theirs))


def _openmetrics(text: str) -> Iterable[Metric]:
    return parse_openmetrics(text)  # type: ignore[no-untyped-call,no-any-return]


def _sorted_samples(families: Iterable[Metric]) -> list[tuple[str, dict[str, str], float]]:
    found = [sample for family in families for sample in family.samples]
    return sorted(((s.name, _floats(s.labels), s.value) for s in found), key=_key)


@pytest.mark.parametrize(
    ("value", "text"),
    [(3, "3"), (3.0, "3.0"), (1e-05, "1e-05"), (math.inf, "+Inf"), (-math.inf, "-Inf"), (math.nan, "NaN")],
)
def test_numbers_are_written_so_that_go_reads_them(value: float, text: str) -> None:
    assert number(value) == text
