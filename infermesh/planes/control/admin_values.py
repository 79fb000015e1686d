"""The fleet as the admin port shows it: plain JSON values made from a view. Pure; nothing is computed anew."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from infermesh.core.model.names import ModelName, NodeId, TargetKey
from infermesh.core.model.nodes import NodeRecord
from infermesh.core.model.state import GpuState
from infermesh.core.model.targets import RoutingView, Target

EMULATED = "emulated"  # The runtime's name where no real engine runs: shown wherever such a model shows.
MODE = "mesh"

Json = dict[str, object]
Inflight = Callable[[TargetKey], int]


def nodes_value(view: RoutingView, me: str, now: float, inflight: Inflight) -> Json:
    targets: dict[NodeId, list[Target]] = {node: [] for node in sorted(view.nodes)}
    for target in _sorted(view.targets.values()):
        targets.setdefault(target.node, []).append(target)
    nodes = [
        _node_value(view.nodes[node], found, view, now, inflight)
        for node, found in targets.items()
        if node in view.nodes
    ]
    return {"me": me, "mode": MODE, "view_version": view.version, "nodes": nodes}


def _node_value(record: NodeRecord, targets: list[Target], view: RoutingView, now: float, inflight: Inflight) -> Json:
    runtimes = sorted({target.state.runtime for target in targets})
    return {
        "node": record.node,
        "roles": sorted(record.roles),
        "zone": record.zone,
        "state": record.state,
        "since_s": _rounded(now - record.since),
        "rtt_ms": _rounded(record.rtt_s * 1e3),
        "reason": record.reason,
        "address": str(record.mesh_address) if record.mesh_address is not None else "",
        "emulated": EMULATED in runtimes,
        "runtimes": runtimes,
        "models": [target_value(target, now, inflight) for target in targets],
        "gpus": [_gpu_value(gpu) for gpu in view.gpus if gpu.node == record.node],
    }


def target_value(target: Target, now: float, inflight: Inflight) -> Json:
    """One model on one node, as last heard."""
    state = target.state
    return {
        "node": target.node,
        "model": target.model,
        "runtime": state.runtime,
        "emulated": state.runtime == EMULATED,
        "lifecycle": state.lifecycle,
        "queue_len": state.queue_len,
        "running": state.running,
        "slots": state.slots,
        "kv_usage": _rounded(state.kv_usage),
        "kv_capacity_tokens": state.kv_capacity_tokens,
        "ttft_ms": _rounded(state.ttft_ms),
        "itl_ms": _rounded(state.itl_ms),
        "prompt_tokens_per_s": _rounded(state.prompt_tokens_per_s),
        "generation_tokens_per_s": _rounded(state.generation_tokens_per_s),
        "prefix_hit_rate": _rounded(state.prefix_hit_rate),
        "context_tokens_max": state.context_tokens_max,
        "incarnation": state.incarnation,
        "age_s": _rounded(now - target.received_at),
        "inflight": inflight(target.key),
        "suspect": target.suspect,
        "unavailable": target.unavailable,
    }


def targets_value(view: RoutingView, now: float, inflight: Inflight) -> Json:
    targets = [
        {"target": target.key, **target_value(target, now, inflight)} for target in _sorted(view.targets.values())
    ]
    return {"view_version": view.version, "targets": targets}


def models_value(view: RoutingView) -> Json:
    """Every model ever heard of and not yet forgotten, ready or not."""
    found: dict[ModelName, list[Target]] = {model: [] for model in view.eligible}
    for target in _sorted(view.targets.values()):
        found.setdefault(target.model, []).append(target)
    return {"models": [_model_value(model, found[model], view) for model in sorted(found)]}


def _model_value(model: ModelName, targets: list[Target], view: RoutingView) -> Json:
    return {
        "model": model,
        "nodes": [target.node for target in targets],
        "ready": len(view.eligible.get(model, ())),
        "queue_len": sum(target.state.queue_len for target in targets),
        "running": sum(target.state.running for target in targets),
        "slots": sum(target.state.slots for target in targets),
        "runtimes": sorted({target.state.runtime for target in targets}),
        "emulated": any(target.state.runtime == EMULATED for target in targets),
    }


def _gpu_value(gpu: GpuState) -> Json:
    return {
        "gpu_uuid": gpu.gpu_uuid,
        "name": gpu.name,
        "health": gpu.health,
        "sm_utilization": _rounded(gpu.sm_utilization),
        "memory_used_bytes": gpu.memory_used_bytes,
        "memory_total_bytes": gpu.memory_total_bytes,
        "temperature_c": _rounded(gpu.temperature_c),
        "power_w": _rounded(gpu.power_w),
    }


def _sorted(targets: Iterable[Target]) -> list[Target]:
    return sorted(targets, key=lambda target: target.key)


def _rounded(value: float) -> float:
    return round(value, 3)
