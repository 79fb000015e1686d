"""Gauges that repeat the routing view: set when somebody reads /metrics, so that no delta pays for them."""

from __future__ import annotations

from infermesh.core.model.nodes import NodeState
from infermesh.core.model.targets import RoutingView
from infermesh.observe.metrics import Metrics

_MEBIBYTE = 1 << 20


def set_view_gauges(metrics: Metrics, view: RoutingView, now: float) -> None:
    """Children of nodes and models that left the view disappear; none lingers at its last value."""
    metrics.view_version.child().value = view.version
    metrics.node_healthy.replace(
        {(node.node, node.zone): int(node.state is NodeState.ALIVE) for _, node in sorted(view.nodes.items())}
    )
    targets = [target for _, target in sorted(view.targets.items())]
    labelled = [((t.model, t.state.runtime, t.node), t) for t in targets]
    metrics.model_queue_depth.replace({labels: t.state.queue_len for labels, t in labelled})
    metrics.model_running.replace({labels: t.state.running for labels, t in labelled})
    metrics.model_kv_usage.replace({labels: t.state.kv_usage for labels, t in labelled})
    metrics.model_available.replace({labels: int(not t.unavailable) for labels, t in labelled})
    metrics.signal_age.replace({(t.model, t.node): max(0.0, now - t.received_at) for t in targets})

    gpus = [((gpu.node, gpu.gpu_uuid), gpu) for gpu in view.gpus]
    metrics.gpu_utilization.replace({labels: gpu.sm_utilization * 100.0 for labels, gpu in gpus})
    metrics.gpu_memory_used.replace({labels: gpu.memory_used_bytes / _MEBIBYTE for labels, gpu in gpus})
    metrics.gpu_memory_free.replace(
        {labels: (gpu.memory_total_bytes - gpu.memory_used_bytes) / _MEBIBYTE for labels, gpu in gpus}
    )
    metrics.gpu_temperature.replace({labels: gpu.temperature_c for labels, gpu in gpus})
    metrics.gpu_power.replace({labels: gpu.power_w for labels, gpu in gpus})
