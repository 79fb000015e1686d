"""Write metrics out: Prometheus text 0.0.4 and OpenMetrics 1.0, chosen by the reader's Accept header.

Own writer, because `prometheus_client` takes about 25 us a series and would hold the loop; its parsers judge
our output in the tests. `FamiliesCollector` offers the same families to a program with its own registry.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import accumulate

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from infermesh.observe.families import Counter, Gauge, Histogram, Labels

TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"

AnyFamily = Counter | Gauge | Histogram


def wants_openmetrics(accept: str) -> bool:
    """True when the header prefers OpenMetrics to plain text (RFC 9110 section 12.5.1: the higher q wins)."""
    open_q, text_q = 0.0, 0.0
    for part in accept.lower().split(",")[:32]:
        media, *parameters = (piece.strip() for piece in part.split(";"))
        q = _quality(parameters)
        if media == "application/openmetrics-text":
            open_q = max(open_q, q)
        elif media in ("text/plain", "text/*"):
            text_q = max(text_q, q)
    # */* alone means text: whoever says nothing gets the format that every reader knows.
    return open_q > 0.0 and open_q >= text_q


def _quality(parameters: Sequence[str]) -> float:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                return min(1.0, max(0.0, float(value)))
            except ValueError:
                return 0.0
    return 1.0


def render_families(families: Iterable[AnyFamily], *, openmetrics: bool) -> list[str]:
    """Lines without their line ends. OpenMetrics wants `# EOF` after the last; the caller adds it."""
    lines: list[str] = []
    for family in families:
        name = family.spec.name
        if isinstance(family, Histogram):
            _head(lines, name, "histogram", family.spec.help)
            _histogram_lines(lines, family)
            continue
        if isinstance(family, Counter):
            # OpenMetrics names the family without the suffix of its samples.
            _head(lines, name.removesuffix("_total") if openmetrics else name, "counter", family.spec.help)
        else:
            _head(lines, name, "gauge", family.spec.help)
        for values, child in family.items():
            lines.append(f"{name}{_labels(family.spec.labels, values)} {number(child.value)}")
    return lines


def render_foreign(metrics: Iterable[Metric], *, openmetrics: bool) -> list[str]:
    """Counters and gauges of a `prometheus_client` collector: the process metrics."""
    lines: list[str] = []
    for metric in metrics:
        suffix = "_total" if metric.type == "counter" and not openmetrics else ""
        _head(lines, metric.name + suffix, metric.type, metric.documentation)
        for sample in metric.samples:
            names = tuple(sample.labels)
            values = tuple(sample.labels.values())
            lines.append(f"{sample.name}{_labels(names, values)} {number(sample.value)}")
    return lines


def number(value: float) -> str:
    if isinstance(value, int):
        return str(value)
    if math.isfinite(value):
        return repr(value)
    return "NaN" if math.isnan(value) else ("+Inf" if value > 0 else "-Inf")


def _head(lines: list[str], name: str, kind: str, text: str) -> None:
    escaped = text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"'")
    lines.append(f"# HELP {name} {escaped}")
    lines.append(f"# TYPE {name} {kind}")


def _labels(names: Labels, values: Labels) -> str:
    return "{" + _pairs(names, values) + "}" if names else ""


def _pairs(names: Labels, values: Labels) -> str:
    return ",".join([f'{name}="{_escape(value)}"' for name, value in zip(names, values, strict=True)])


def _escape(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def _histogram_lines(lines: list[str], family: Histogram) -> None:
    name = family.spec.name
    bounds = [*map(number, family.buckets), "+Inf"]
    for values, child in family.items():
        pairs = _pairs(family.spec.labels, values)
        begin = f"{name}_bucket{{{pairs}{',' if pairs else ''}le=" + '"'
        total = 0
        for bound, total in zip(bounds, accumulate(child.counts), strict=True):
            lines.append(f'{begin}{bound}"}} {total}')
        labels = "{" + pairs + "}" if pairs else ""
        lines.append(f"{name}_sum{labels} {number(child.total)}")
        lines.append(f"{name}_count{labels} {total}")


class FamiliesCollector(Collector):
    """The same families for a `prometheus_client` registry."""

    def __init__(self, families: Sequence[AnyFamily]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        for family in self._families:
            spec = family.spec
            if isinstance(family, Histogram):
                histogram = HistogramMetricFamily(spec.name, spec.help, labels=spec.labels)
                bounds = [*map(number, family.buckets), "+Inf"]
                for values, distribution in family.items():
                    buckets = list(zip(bounds, accumulate(distribution.counts), strict=True))
                    histogram.add_metric(values, buckets, distribution.total)
                yield histogram
                continue
            kind = CounterMetricFamily if isinstance(family, Counter) else GaugeMetricFamily
            plain = kind(spec.name, spec.help, labels=spec.labels)
            for values, child in family.items():
                plain.add_metric(values, child.value)
            yield plain
