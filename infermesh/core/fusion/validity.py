"""Whether a reported state can be true at all. Peers are authenticated, not infallible: one NaN or one negative
queue, once inside, would win or lose every comparison of scores."""

from __future__ import annotations

import math
import re

from infermesh.core.model.state import GpuState, ModelState

_NAME_LEN_MAX = 256
_RUNTIME_LEN_MAX = 64
_COUNT_MAX = 1 << 40  # Far above any queue, KV cache or GPU memory in bytes; keeps sums inside a float's exact range.
_RATE_MAX = 1e12
# `target_key` writes a replica like this: such a name would share the key of another target.
_REPLICA = re.compile(r".*#[0-9]+", re.DOTALL)


def model_state_fault(state: ModelState) -> str:
    """What is wrong with it, in words for an operator; empty when nothing is."""
    if not 0 < len(state.model) <= _NAME_LEN_MAX:
        return f"model name of {len(state.model)} characters; allowed are 1 to {_NAME_LEN_MAX}"
    if not state.model.isprintable() or state.model != state.model.strip():
        return f"model name {state.model[:64]!a}; blanks at its ends and control characters cannot go into a header"
    if "#" in state.model and _REPLICA.fullmatch(state.model):
        return f"model name {state.model[:64]!a}; '#' and a number at the end stand for a replica"
    if len(state.runtime) > _RUNTIME_LEN_MAX:
        return f"runtime name of {len(state.runtime)} characters; allowed are {_RUNTIME_LEN_MAX}"
    counts = (state.queue_len, state.running, state.slots, state.kv_capacity_tokens, state.context_tokens_max)
    for count in (*counts, state.replica):
        if not 0 <= count <= _COUNT_MAX:
            return f"a count of {count}; allowed are 0 to {_COUNT_MAX}"
    # A NaN fails both comparisons.
    if not 0.0 <= state.kv_usage <= 1.0:
        return f"kv_usage of {state.kv_usage}; allowed are 0 to 1"
    if not 0.0 <= state.prefix_hit_rate <= 1.0:
        return f"prefix_hit_rate of {state.prefix_hit_rate}; allowed are 0 to 1"
    rates = (state.ttft_ms, state.itl_ms, state.prompt_tokens_per_s, state.generation_tokens_per_s)
    for rate in rates:
        if not 0.0 <= rate <= _RATE_MAX:
            return f"a time or rate of {rate}; allowed are 0 to {_RATE_MAX:g}"
    return "" if math.isfinite(state.source_time) else f"source_time of {state.source_time}"


def gpu_state_fault(state: GpuState) -> str:
    """What is wrong with it, in words for an operator; empty when nothing is."""
    if not 0 < len(state.gpu_uuid) <= _NAME_LEN_MAX:
        return f"gpu_uuid of {len(state.gpu_uuid)} characters; allowed are 1 to {_NAME_LEN_MAX}"
    if len(state.name) > _NAME_LEN_MAX:
        return f"GPU name of {len(state.name)} characters; allowed are {_NAME_LEN_MAX}"
    for count in (state.memory_used_bytes, state.memory_total_bytes):
        if not 0 <= count <= 1 << 50:
            return f"a memory size of {count} bytes"
    if not 0.0 <= state.sm_utilization <= 1.0:
        return f"sm_utilization of {state.sm_utilization}; allowed are 0 to 1"
    for value in (state.temperature_c, state.power_w, state.source_time):
        if not math.isfinite(value):
            return f"a reading of {value}"
    return ""
