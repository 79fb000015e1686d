from infermesh.core.model.names import ModelName, NodeId, target_key
from infermesh.core.model.nodes import NodeRecord, NodeState, Role
from infermesh.core.model.state import GpuHealth, GpuState, Lifecycle, ModelState
from infermesh.core.model.targets import EMPTY_VIEW, RoutingView, Target
from infermesh.observe.families import Gauge
from infermesh.observe.metrics import Metrics
from infermesh.observe.view_gauges import set_view_gauges

GPU_A = NodeId("gpu-a")
GPU_B = NodeId("gpu-b")
MODEL = ModelName("m")


def _record(node: NodeId, state: NodeState) -> NodeRecord:
    return NodeRecord(node=node, mesh_address=None, roles=frozenset({Role.GPU}), zone="z1", state=state, since=1.0)


def _target(unavailable: str = "") -> Target:
    state = ModelState(
        node=GPU_A,
        model=MODEL,
        runtime="emulated",
        incarnation=1,
        sequence=1,
        source_time=0.0,
        lifecycle=Lifecycle.READY,
        queue_len=3,
        running=7,
        kv_usage=0.5,
    )
    return Target(
        key=target_key(GPU_A, MODEL),
        node=GPU_A,
        model=MODEL,
        state=state,
        received_at=9.5,
        unavailable=unavailable,
    )


def _view(target: Target) -> RoutingView:
    gpu = GpuState(
        node=GPU_A,
        gpu_uuid="GPU-1",
        sequence=1,
        source_time=0.0,
        name="H100",
        health=GpuHealth.HEALTHY,
        sm_utilization=0.75,
        memory_used_bytes=3 << 20,
        memory_total_bytes=8 << 20,
        temperature_c=61.0,
        power_w=300.0,
    )
    return RoutingView(
        version=4,
        built_at=9.0,
        nodes={GPU_A: _record(GPU_A, NodeState.ALIVE), GPU_B: _record(GPU_B, NodeState.DEAD)},
        eligible={MODEL: (target,)},
        targets={target.key: target},
        gpus=(gpu,),
    )


def _values(gauge: Gauge) -> dict[tuple[str, ...], float]:
    return {labels: child.value for labels, child in gauge.items()}


def test_the_view_shows_in_gauges_and_says_which_engine_is_emulated() -> None:
    metrics = Metrics(NodeId("edge"), "1")
    set_view_gauges(metrics, _view(_target()), now=10.0)
    assert _values(metrics.view_version) == {(): 4}
    assert _values(metrics.node_healthy) == {("gpu-a", "z1"): 1, ("gpu-b", "z1"): 0}
    assert _values(metrics.model_queue_depth) == {("m", "emulated", "gpu-a"): 3}
    assert _values(metrics.model_running) == {("m", "emulated", "gpu-a"): 7}
    assert _values(metrics.model_kv_usage) == {("m", "emulated", "gpu-a"): 0.5}
    assert _values(metrics.model_available) == {("m", "emulated", "gpu-a"): 1}
    assert _values(metrics.signal_age) == {("m", "gpu-a"): 0.5}
    assert _values(metrics.gpu_utilization) == {("gpu-a", "GPU-1"): 75.0}
    assert _values(metrics.gpu_memory_used) == {("gpu-a", "GPU-1"): 3.0}
    assert _values(metrics.gpu_memory_free) == {("gpu-a", "GPU-1"): 5.0}
    assert _values(metrics.gpu_temperature) == {("gpu-a", "GPU-1"): 61.0}
    assert _values(metrics.gpu_power) == {("gpu-a", "GPU-1"): 300.0}


def test_a_target_that_must_not_be_chosen_counts_as_not_available() -> None:
    metrics = Metrics(NodeId("edge"), "1")
    set_view_gauges(metrics, _view(_target("ejected 3.1 s")), now=10.0)
    assert _values(metrics.model_available) == {("m", "emulated", "gpu-a"): 0}


def test_what_left_the_view_leaves_the_gauges() -> None:
    metrics = Metrics(NodeId("edge"), "1")
    set_view_gauges(metrics, _view(_target()), now=10.0)
    set_view_gauges(metrics, EMPTY_VIEW, now=11.0)
    assert [len(gauge) for gauge in (metrics.node_healthy, metrics.signal_age, metrics.gpu_power)] == [0, 0, 0]
