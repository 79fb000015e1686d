"""What a GPU node says about one model and about one GPU. Values only; unknown is said, never guessed.

`ModelState` is both the full state and the delta: a delta carries every field, because a whole state is
under 200 bytes and a receiver that missed one delta must not need the one before.
"""

from __future__ import annotations

import enum

import msgspec

from infermesh.core.model.names import ModelName, NodeId


class Lifecycle(enum.StrEnum):
    UNKNOWN = "unknown"
    LOADING = "loading"
    READY = "ready"
    FAILED = "failed"


class ModelState(msgspec.Struct, frozen=True, kw_only=True):
    """One model on one runtime of one node. Zero means unknown where a field says so."""

    node: NodeId
    model: ModelName
    runtime: str  # "vllm", "emulated", ...
    incarnation: int  # Grows with every start of the engine; its caches died with the one before.
    sequence: int  # Strictly grows per (node, model, replica) for the life of the reporting meshd.
    source_time: float  # Unix seconds on the reporting node.
    lifecycle: Lifecycle
    replica: int = 0  # Which of the node's runtimes: several may serve the same model, one for each GPU.
    queue_len: int = 0  # Requests waiting in the engine.
    running: int = 0  # Requests in the engine's batch.
    slots: int = 0  # Sequences the engine runs at once; 0 unknown.
    kv_usage: float = 0.0  # 0..1.
    kv_capacity_tokens: int = 0  # 0 unknown.
    ttft_ms: float = 0.0  # Mean over the last window with traffic; 0 unknown.
    itl_ms: float = 0.0  # Mean gap between tokens over the last window with traffic; 0 unknown.
    prompt_tokens_per_s: float = 0.0
    generation_tokens_per_s: float = 0.0
    prefix_hit_rate: float = 0.0  # 0..1 over the last window.
    context_tokens_max: int = 0  # 0 unknown.


class GpuHealth(enum.StrEnum):
    UNKNOWN = "unknown"
    HEALTHY = "healthy"
    DEGRADED = "degraded"
    FAILED = "failed"


class GpuState(msgspec.Struct, frozen=True, kw_only=True):
    """One GPU of one node."""

    node: NodeId
    gpu_uuid: str
    sequence: int
    source_time: float
    name: str
    health: GpuHealth
    sm_utilization: float  # 0..1.
    memory_used_bytes: int
    memory_total_bytes: int
    temperature_c: float
    power_w: float


class LoadHint(msgspec.Struct, frozen=True):
    """The load that a GPU node puts on each response (`x-infermesh-load`): fresher than any stream."""

    incarnation: int
    queue_len: int
    running: int
    kv_usage: float
