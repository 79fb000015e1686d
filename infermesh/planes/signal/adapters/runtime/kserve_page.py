"""What a `/metrics` page of Triton, MLServer or OVMS says about its models. Pure: bytes in, values out.

None of the three says everything. Triton tells its queue and no running count, OVMS the requests inside and no
queue, MLServer neither for a single model; what a page does not tell stays 0, which means unknown. All three total
the time of whole requests; Triton, where it keeps latency histograms, that to the first response as well, which is
what a streaming model is judged by. Names: Triton 2.51 (capture in tests/fixtures/triton) and 2.6x, MLServer 1.7.1
(capture in tests/fixtures/mlserver), OVMS as of its documentation. Versions of a model are added up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from infermesh.planes.signal.adapters.runtime.counter_window import Totals
from infermesh.planes.signal.adapters.runtime.prometheus_text import MetricsScanner, MetricsTextError, Sample

COUNT_MAX: Final = 2**31 - 1
# Beyond every count and time of a process, and small enough that a page of them adds up to a number.
TOTAL_MAX: Final = 1e18


class _Series(msgspec.Struct, frozen=True):
    name: str
    label: str  # The label that holds the model's name.
    scale: float = 1.0


QUEUE: Final = _Series("nv_inference_pending_request_count", "model")
RUNNING: Final = _Series("ovms_current_requests", "name")
# Time in seconds and the number of requests that took it; of a model that is in two pairs, the first pair counts.
FIRST_RESPONSES: Final = (
    _Series("nv_inference_first_response_histogram_ms_sum", "model", 1e-3),
    _Series("nv_inference_first_response_histogram_ms_count", "model"),
)
WHOLE_REQUESTS: Final = (
    (_Series("nv_inference_request_duration_us", "model", 1e-6), _Series("nv_inference_request_success", "model")),
    (_Series("model_infer_request_duration_sum", "model"), _Series("model_infer_request_duration_count", "model")),
    (_Series("ovms_request_time_us_sum", "name", 1e-6), _Series("ovms_request_time_us_count", "name")),
)
STARTED: Final = "process_start_time_seconds"


class ModelReading(msgspec.Struct, frozen=True, kw_only=True):
    """One model of the page, its versions added up."""

    queue_len: int = 0
    running: int = 0
    whole: Totals = Totals()  # Time to the end of the answer, in the fields for the time to its beginning.
    first: Totals | None = None  # Time to the first response, where the page tells it.


class KServePage(msgspec.Struct, frozen=True, kw_only=True):
    models: Mapping[str, ModelReading]
    started_unix_s: float  # 0.0: the page does not say, as Triton's.
    tells_queue: bool


class KServePageReader:
    """Reads one page after another; keep one per server, it remembers label blocks."""

    def __init__(self) -> None:
        pairs = (FIRST_RESPONSES, *WHOLE_REQUESTS)
        self._scanner = MetricsScanner(
            [QUEUE.name, RUNNING.name, STARTED, *(one.name for pair in pairs for one in pair)]
        )

    def read(self, page: bytes) -> KServePage:
        found = self._scanner.scan(page)
        queues, running = _sums(found, QUEUE), _sums(found, RUNNING)
        firsts = _totals(found, FIRST_RESPONSES)
        wholes: dict[str, Totals] = {}
        for pair in WHOLE_REQUESTS:
            wholes = _totals(found, pair) | wholes
        names = sorted({*queues, *running, *firsts, *wholes})
        started = found[STARTED][0].value if found[STARTED] else 0.0
        return KServePage(
            models={
                name: ModelReading(
                    queue_len=_count(queues.get(name, 0.0)),
                    running=_count(running.get(name, 0.0)),
                    whole=wholes.get(name, Totals()),
                    first=firsts.get(name),
                )
                for name in names
            },
            started_unix_s=started if 0.0 < started < 2.0**53 / 1000 else 0.0,
            tells_queue=bool(found[QUEUE.name]),
        )


def _totals(found: Mapping[str, Sequence[Sample]], pair: tuple[_Series, _Series]) -> dict[str, Totals]:
    seconds, counts = (_sums(found, series) for series in pair)
    return {name: Totals(ttft_s_sum=seconds.get(name, 0.0), ttft_count=counts.get(name, 0.0)) for name in counts}


def _sums(found: Mapping[str, Sequence[Sample]], series: _Series) -> dict[str, float]:
    sums: dict[str, float] = {}
    for sample in found[series.name]:
        # Written so that NaN is refused too.
        if not 0.0 <= sample.value <= TOTAL_MAX:
            raise MetricsTextError(f"{series.name} is {sample.value}, which no request count or total can be")
        name = sample.label(series.label)
        if name:
            sums[name] = sums.get(name, 0.0) + sample.value * series.scale
    return sums


def _count(value: float) -> int:
    return min(COUNT_MAX, round(value))
