"""The admin port's JSON as `mesh` reads it: only what is shown, and every field with a default.

A newer or older daemon may say more or less; what it does not say is shown as unknown. Not used for `--json`,
which passes the daemon's document on as it is.
"""

from __future__ import annotations

import msgspec


class TargetRow(msgspec.Struct, frozen=True, kw_only=True):
    """One model on one node, inside `/v1/nodes`. 0 is unknown where a figure cannot be 0."""

    model: str
    replica: int = 0
    runtime: str = ""
    lifecycle: str = "unknown"
    queue_len: int = 0
    running: int = 0
    slots: int = 0
    kv_usage: float = 0.0
    ttft_ms: float = 0.0
    itl_ms: float = 0.0
    prompt_tokens_per_s: float = 0.0
    generation_tokens_per_s: float = 0.0
    prefix_hit_rate: float = 0.0
    age_s: float = 0.0
    inflight: int = 0
    unavailable: str = ""


class GpuRow(msgspec.Struct, frozen=True, kw_only=True):
    gpu_uuid: str = ""
    name: str = ""
    health: str = "unknown"
    sm_utilization: float = 0.0
    memory_used_bytes: int = 0
    memory_total_bytes: int = 0
    temperature_c: float = 0.0
    power_w: float = 0.0


class NodeRow(msgspec.Struct, frozen=True, kw_only=True):
    node: str
    roles: list[str] = []
    zone: str = ""
    state: str = "unknown"
    since_s: float = 0.0
    rtt_ms: float = 0.0
    reason: str = ""
    address: str = ""
    emulated: bool = False
    runtimes: list[str] = []
    models: list[TargetRow] = []
    gpus: list[GpuRow] = []


class NodesPage(msgspec.Struct, frozen=True, kw_only=True):
    """GET /v1/nodes"""

    nodes: list[NodeRow]
    me: str = ""
    mode: str = ""


class ModelRow(msgspec.Struct, frozen=True, kw_only=True):
    model: str
    nodes: list[str] = []
    ready: int = 0
    queue_len: int = 0
    running: int = 0
    emulated: bool = False


class ModelsPage(msgspec.Struct, frozen=True, kw_only=True):
    """GET /v1/models"""

    models: list[ModelRow]


class Breakdown(msgspec.Struct, frozen=True, kw_only=True):
    network_ms: float = 0.0
    queue_ms: float = 0.0
    prefill_ms: float = 0.0
    decode_ms: float = 0.0
    penalty_ms: float = 0.0


class CandidateRow(msgspec.Struct, frozen=True, kw_only=True):
    node: str
    score_ms: float = 0.0
    breakdown: Breakdown = Breakdown()
    ttft_ms: float = 0.0
    total_ms: float = 0.0
    low_ms: float = 0.0
    high_ms: float = 0.0
    signal_age_s: float = 0.0
    own_inflight: int = 0
    correction: float = 1.0
    replica: int = 0


class ExcludedRow(msgspec.Struct, frozen=True, kw_only=True):
    node: str
    reason: str = ""
    replica: int = 0


class ScorePage(msgspec.Struct, frozen=True, kw_only=True):
    """GET /v1/score"""

    model: str
    policy: str = ""
    candidates: list[CandidateRow] = []
    excluded: list[ExcludedRow] = []


class AttemptRow(msgspec.Struct, frozen=True, kw_only=True):
    attempt: int
    node: str
    verdict: str | None = None
    first_byte_ms: float | None = None
    total_ms: float | None = None
    hedge: bool = False
    detail: str = ""


class ExplainPage(msgspec.Struct, frozen=True, kw_only=True):
    """GET /v1/explain/{request_id}"""

    request_id: str
    route: str = ""
    protocol: str = ""
    model: str = ""
    received_unix_s: float = 0.0
    priority: str | int = ""
    queue_wait_ms: float = 0.0
    policy: str = ""
    candidates: list[CandidateRow] = []
    attempts: list[AttemptRow] = []
    status: str | int = ""
    ending: str = ""
    reason: str = ""
    excluded: list[ExcludedRow] = []


class Quantiles(msgspec.Struct, frozen=True, kw_only=True):
    p50: float = 0.0
    p90: float = 0.0
    p99: float = 0.0


class NodeTotals(msgspec.Struct, frozen=True, kw_only=True):
    chosen: int = 0
    won: int = 0
    cancelled: int = 0


class HedgeTotals(msgspec.Struct, frozen=True, kw_only=True):
    fired: int = 0
    won: int = 0
    lost: int = 0
    denied: int = 0


class SummaryPage(msgspec.Struct, frozen=True, kw_only=True):
    """GET /v1/summary"""

    requests: int = 0
    completed: int = 0
    failed: int = 0
    rejected: int = 0
    cancelled: int = 0
    in_flight: int = 0
    ttft_ms: Quantiles = Quantiles()
    per_node: dict[str, NodeTotals] = {}
    hedges: HedgeTotals = HedgeTotals()
    cancelled_upstream: int = 0
