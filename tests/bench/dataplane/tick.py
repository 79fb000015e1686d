"""How late a 50 ms tick of meshd was while the relay was saturated: read from its own histogram on /metrics.

meshd measures the slip in a trio task of its own; here the histogram is read before a cell, at both ends of its
window and the differences are judged: the window is the saturated state, what comes before is the burst in which
connections and streams are opened.
"""

from __future__ import annotations

import http.client
import math
import re
from collections.abc import Iterable, Mapping

HISTOGRAM = "infermesh_tick_slip_seconds"
READ_TIMEOUT_S = 10.0
BOUND_MAX_S = 1000.0  # Stands for the last bucket, which has no bound: JSON knows no infinity.

_BUCKET = re.compile(rf'^{HISTOGRAM}_bucket\{{(?:[^}}]*,)?le="([^"]+)"[^}}]*\}} (\S+)', re.MULTILINE)

Counts = Mapping[float, float]  # Upper bound in seconds -> ticks at or below it since the start.


def read_counts(admin_port: int) -> Counts:
    connection = http.client.HTTPConnection("127.0.0.1", admin_port, timeout=READ_TIMEOUT_S)
    try:
        connection.request("GET", "/metrics")
        return parse_counts(connection.getresponse().read().decode())
    finally:
        connection.close()


def parse_counts(text: str) -> Counts:
    return {float(bound): float(count) for bound, count in _BUCKET.findall(text)}


def difference(before: Counts, after: Counts) -> Counts:
    return {bound: count - before.get(bound, 0.0) for bound, count in after.items()}


def added(parts: Iterable[Counts]) -> Counts:
    total: dict[float, float] = {}
    for counts in parts:
        for bound, count in counts.items():
            total[bound] = total.get(bound, 0.0) + count
    return total


def quantile_bound_ms(ticks: Counts, quantile: float) -> float | None:
    """The upper bound, in milliseconds, of the bucket that holds this quantile; None when there was no tick."""
    total = ticks.get(math.inf, 0.0)
    if not total:
        return None
    bound = min(bound for bound, count in ticks.items() if count >= quantile * total)
    return 1e3 * min(bound, BOUND_MAX_S)
