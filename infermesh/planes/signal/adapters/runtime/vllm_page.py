"""What one `/metrics` page of vLLM says about its models. Pure: bytes in, values out.

Names are those of a real server (vLLM 0.32.0; the capture is in tests/fixtures/vllm), then what older servers
called the same thing. Data-parallel engines of one process (`engine="0"`, `engine="1"`, ...) are one target:
queues, counters and capacities are added up, KV use is their mean. A value that no gauge or counter of vLLM can
have (NaN, negative) makes the page unreadable: MetricsTextError.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from infermesh.planes.signal.adapters.runtime.counter_window import Totals
from infermesh.planes.signal.adapters.runtime.prometheus_text import MetricsScanner, MetricsTextError, Sample

# Signal -> the names that carry it, newest first.
NAMES: Final[Mapping[str, tuple[str, ...]]] = {
    "running": ("vllm:num_requests_running",),
    "queue_len": ("vllm:num_requests_waiting",),
    "kv_usage": ("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"),
    "kv_capacity": ("vllm:cache_config_info",),
    "ttft_s_sum": ("vllm:time_to_first_token_seconds_sum",),
    "ttft_count": ("vllm:time_to_first_token_seconds_count",),
    "itl_s_sum": ("vllm:inter_token_latency_seconds_sum", "vllm:time_per_output_token_seconds_sum"),
    "itl_count": ("vllm:inter_token_latency_seconds_count", "vllm:time_per_output_token_seconds_count"),
    "prompt_tokens": ("vllm:prompt_tokens_total",),
    "generation_tokens": ("vllm:generation_tokens_total",),
    "prefix_hits": ("vllm:prefix_cache_hits_total", "vllm:gpu_prefix_cache_hits_total"),
    "prefix_queries": ("vllm:prefix_cache_queries_total", "vllm:gpu_prefix_cache_queries_total"),
    "sleep": ("vllm:engine_sleep_state",),
    "started": ("process_start_time_seconds",),
}
# Without these nobody can say whether the engine is idle or drowning.
ESSENTIAL: Final = frozenset({"running", "queue_len"})
# Missing on older servers, or when several API processes share one registry; each has a fallback.
OPTIONAL: Final = frozenset({"sleep", "started"})
COUNT_MAX: Final = 2**31 - 1
TOKENS_MAX: Final = 2**53
# Beyond every count and time of a process, and small enough that a page of them adds up to a number.
TOTAL_MAX: Final = 1e18


class EngineReading(msgspec.Struct, frozen=True, kw_only=True):
    """One model of the page, its engines added up."""

    running: int
    queue_len: int
    kv_usage: float
    kv_capacity_tokens: int
    awake: bool
    totals: Totals


class PageReading(msgspec.Struct, frozen=True, kw_only=True):
    engines: Mapping[str, EngineReading]  # By the label `model_name`.
    started_unix_s: float  # 0.0: the page does not say.
    missing: tuple[str, ...]  # Names that should be there and are not; the newest name of each signal.

    @property
    def tells_load(self) -> bool:
        """False when the page lacks what a choice cannot do without."""
        return not any(NAMES[signal][0] in self.missing for signal in ESSENTIAL)


class VllmPageReader:
    """Reads one page after another; keep one per server, it remembers label blocks."""

    def __init__(self) -> None:
        self._scanner = MetricsScanner(name for names in NAMES.values() for name in names)

    def read(self, page: bytes) -> PageReading:
        found = self._scanner.scan(page)
        signals = {signal: next((found[name] for name in names if found[name]), []) for signal, names in NAMES.items()}
        missing = tuple(names[0] for signal, names in NAMES.items() if not signals[signal] and signal not in OPTIONAL)
        sums = {signal: _sums(signal, samples) for signal, samples in signals.items() if signal in _SUMMED}
        names = sorted({name for signal in ESSENTIAL for name in sums[signal]})
        capacities = _capacities(signals["kv_capacity"])
        usages = _usages(signals["kv_usage"])
        asleep = {
            sample.label("model_name")
            for sample in signals["sleep"]
            if sample.label("sleep_state") == "awake" and sample.value == 0.0
        }
        engines = {
            name: EngineReading(
                running=_count(sums["running"].get(name, 0.0)),
                queue_len=_count(sums["queue_len"].get(name, 0.0)),
                kv_usage=usages.get(name, 0.0),
                kv_capacity_tokens=capacities.get(name, capacities.get("", 0)),
                awake=name not in asleep,
                totals=Totals(**{signal: sums[signal].get(name, 0.0) for signal in Totals.__struct_fields__}),
            )
            for name in names
        }
        return PageReading(engines=engines, started_unix_s=_started(signals["started"]), missing=missing)


_SUMMED: Final = frozenset({"running", "queue_len", *Totals.__struct_fields__})


def _sums(signal: str, samples: Sequence[Sample]) -> dict[str, float]:
    sums: dict[str, float] = {}
    for sample in samples:
        # Written so that NaN is refused too.
        if not 0.0 <= sample.value <= TOTAL_MAX:
            raise MetricsTextError(f"{NAMES[signal][0]} is {sample.value}, which no request count or total can be")
        name = sample.label("model_name")
        sums[name] = sums.get(name, 0.0) + sample.value
    return sums


def _count(value: float) -> int:
    return min(COUNT_MAX, round(value))


def _usages(samples: Sequence[Sample]) -> dict[str, float]:
    by_name: dict[str, list[float]] = {}
    for sample in samples:
        if not 0.0 <= sample.value < math.inf:
            raise MetricsTextError(f"{NAMES['kv_usage'][0]} is {sample.value}; 0 to 1 is possible")
        by_name.setdefault(sample.label("model_name"), []).append(min(1.0, sample.value))
    return {name: sum(values) / len(values) for name, values in by_name.items()}


def _capacities(samples: Sequence[Sample]) -> dict[str, int]:
    """Tokens of KV cache by model. vLLM's own line has no model label: one process serves one base model."""
    capacities: dict[str, int] = {}
    for sample in samples:
        name = sample.label("model_name")
        capacities[name] = min(TOKENS_MAX, capacities.get(name, 0) + _capacity(sample))
    return capacities


def _capacity(sample: Sample) -> int:
    size = sample.label("kv_cache_size_tokens")
    blocks, block_size = sample.label("num_gpu_blocks"), sample.label("block_size")
    # "None" stands there while the engine has not measured its memory yet, and on servers that do not say.
    if _is_number(size):
        return int(size)
    return int(blocks) * int(block_size) if _is_number(blocks) and _is_number(block_size) else 0


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 15


def _started(samples: Sequence[Sample]) -> float:
    value = samples[0].value if samples else 0.0
    return value if 0.0 < value < TOKENS_MAX / 1000 else 0.0
