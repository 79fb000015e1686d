"""The /metrics page of an emulated server: every family of a vLLM 0.32 that an emulated engine can fill.

Left out, because nothing here stands behind them: FLOPS and bytes read, LoRA, multimodal cache, external KV
transfer, the Python runtime. Added: `infermesh_emulated`, so that no dashboard takes this for a GPU.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence

from infermesh.core.model.profiles import EngineProfile
from infermesh.emulator.metrics import Page, Snapshot, engine_labels, escape_label


def metrics_page(
    snapshots: Sequence[Snapshot],
    profile: EngineProfile,
    *,
    speed: float,
    started_unix_s: float,
    http_requests: Counter[tuple[str, str, str]],
) -> bytes:
    """`http_requests` counts by (route, method, status class)."""
    page = Page(started_unix_s)
    _process(page, started_unix_s)
    page.family(
        "infermesh_emulated",
        "gauge",
        "1: no GPU here, a cost model stands in for it.",
        [(f'{engine_labels(each.metrics.model)},profile="{profile.name}",speed="{speed}"', 1.0) for each in snapshots],
    )
    _gauges(page, snapshots)
    _counters(page, snapshots)
    for index, histogram in enumerate(snapshots[0].metrics.histograms()):
        parts = [(engine_labels(each.metrics.model), each.metrics.histograms()[index]) for each in snapshots]
        page.histogram(f"vllm:{histogram.name}", parts)
    _cache_config(page, profile)
    if http_requests:
        page.counter(
            "http_requests",
            "Total number of requests by method, status and handler.",
            [
                (f'handler="{route}",method="{method}",status="{status}"', float(count))
                for (route, method, status), count in sorted(http_requests.items())
            ],
        )
    return page.text()


def _process(page: Page, started_unix_s: float) -> None:
    page.family(
        "process_start_time_seconds",
        "gauge",
        "Start time of the process since unix epoch in seconds.",
        [("", started_unix_s)],
    )
    page.family(
        "process_cpu_seconds_total",
        "counter",
        "Total user and system CPU time spent in seconds.",
        [("", time.process_time())],
    )


def _gauges(page: Page, snapshots: Sequence[Snapshot]) -> None:
    def waiting(each: Snapshot) -> float:
        return each.engine.queue_len + each.stuck

    page.family(
        "vllm:num_requests_running",
        "gauge",
        "Number of requests in model execution batches.",
        _one_each(snapshots, lambda each: each.engine.running),
    )
    page.family(
        "vllm:num_requests_waiting",
        "gauge",
        "Number of requests waiting to be processed.",
        _one_each(snapshots, waiting),
    )
    by_reason = []
    for each in snapshots:
        model = each.metrics.model
        by_reason.append((engine_labels(model, reason="capacity"), waiting(each)))
        by_reason.append((engine_labels(model, reason="deferred"), 0.0))
    page.family(
        "vllm:num_requests_waiting_by_reason",
        "gauge",
        "Number of waiting requests by reason. Sum of all reasons equals vllm:num_requests_waiting.",
        by_reason,
    )
    page.family(
        "vllm:engine_sleep_state",
        "gauge",
        "Engine sleep state; awake = 0 means engine is sleeping; awake = 1 means engine is awake.",
        [
            (engine_labels(each.metrics.model, sleep_state=state), float(state == "awake"))
            for each in snapshots
            for state in ("awake", "weights_offloaded", "discard_all")
        ],
    )
    page.family(
        "vllm:kv_cache_usage_perc",
        "gauge",
        "KV-cache usage. 1 means 100 percent usage.",
        _one_each(snapshots, lambda each: each.engine.kv_usage),
    )


def _counters(page: Page, snapshots: Sequence[Snapshot]) -> None:
    def plain(name: str, help_text: str, value: Callable[[Snapshot], float]) -> None:
        page.counter(f"vllm:{name}", help_text, _one_each(snapshots, value))

    plain(
        "prefix_cache_queries",
        "Prefix cache queries, in terms of number of queried tokens.",
        lambda each: each.engine.counters.prefix_query_tokens,
    )
    plain(
        "prefix_cache_hits",
        "Prefix cache hits, in terms of number of cached tokens.",
        lambda each: each.engine.counters.prefix_hit_tokens,
    )
    plain(
        "num_preemptions",
        "Cumulative number of preemption from the engine.",
        lambda each: each.engine.counters.preemptions,
    )
    plain(
        "prompt_tokens",
        "Number of prefill tokens processed.",
        lambda each: each.engine.counters.prompt_tokens,
    )
    plain(
        "prompt_tokens_cached",
        "Number of cached prompt tokens (local + external).",
        lambda each: each.engine.counters.prefix_hit_tokens,
    )
    plain(
        "generation_tokens",
        "Number of generation tokens processed.",
        lambda each: each.engine.counters.generation_tokens,
    )
    page.counter(
        "vllm:request_success",
        "Count of successfully processed requests.",
        [
            (engine_labels(each.metrics.model, finished_reason=reason), float(count))
            for each in snapshots
            for reason, count in each.metrics.finished.items()
        ],
    )
    page.counter(
        "vllm:admission_rejections",
        "Number of admission attempts rejected by a queue limit, by reason.",
        [
            (
                f'model_name="{escape_label(each.metrics.model)}",reason="max_num_queued_reqs"',
                float(each.metrics.refused),
            )
            for each in snapshots
        ],
    )


def _cache_config(page: Page, profile: EngineProfile) -> None:
    labels = {
        "block_size": str(profile.block_tokens),
        "cache_dtype": "auto",
        "enable_prefix_caching": "True",
        "engine": "0",
        "gpu_memory_utilization": "0.92",
        "kv_cache_size_tokens": str(profile.kv_blocks * profile.block_tokens),
        "num_gpu_blocks": str(profile.kv_blocks),
        "prefix_caching_hash_algo": "xxh3_64",
    }
    page.family(
        "vllm:cache_config_info",
        "gauge",
        "Information of the LLMEngine CacheConfig",
        [(",".join(f'{name}="{value}"' for name, value in labels.items()), 1.0)],
    )


def _one_each(snapshots: Sequence[Snapshot], value: Callable[[Snapshot], float]) -> list[tuple[str, float]]:
    return [(engine_labels(each.metrics.model), value(each)) for each in snapshots]
