"""How late a 50 ms tick of meshd was while the relay was saturated: read from its own histogram on /metrics.

meshd measures the slip in a trio task of its own; here the histogram is read before and after a saturated cell
and the difference is judged.
"""

from __future__ import annotations

import http.client
import math
import re
from collections.abc import Mapping

HISTOGRAM = "infermesh_tick_slip_seconds"
READ_TIMEOUT_S = 10.0

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


def quantile_bound(before: Counts, after: Counts, quantile: float) -> float:
    """The upper bound, in seconds, of the bucket that holds this quantile; NaN when there was no tick."""
    ticks = {bound: count - before.get(bound, 0.0) for bound, count in after.items()}
    total = ticks.get(math.inf, 0.0)
    if not total:
        return math.nan
    return min(bound for bound, count in ticks.items() if count >= quantile * total)
