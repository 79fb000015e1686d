import msgspec

from infermesh.core.model.names import ModelName, NodeId, TargetKey, target_key
from infermesh.core.model.nodes import Address, NodeRecord, NodeState, Role
from infermesh.core.model.state import GpuHealth, GpuState, Lifecycle, ModelState
from infermesh.core.model.targets import EMPTY_VIEW, RoutingView, Target
from infermesh.planes.control.admin_values import models_value, nodes_value, targets_value

EDGE, GPU_A, GPU_B = NodeId("edge"), NodeId("gpu-a"), NodeId("gpu-b")
MODEL, OTHER = ModelName("m"), ModelName("other")


def make_record(node: NodeId, state: NodeState = NodeState.ALIVE, *, role: Role = Role.GPU) -> NodeRecord:
    return NodeRecord(
        node=node,
        mesh_address=None if node == EDGE else Address("::1", 7443),
        roles=frozenset({role}),
        zone="z1",
        state=state,
        since=90.0,
        rtt_s=0.0015,
        reason="" if state is NodeState.ALIVE else "silent for 3.1 s",
    )


def make_target(node: NodeId, model: ModelName, runtime: str = "vllm", unavailable: str = "") -> Target:
    state = ModelState(
        node=node,
        model=model,
        runtime=runtime,
        incarnation=3,
        sequence=1,
        source_time=0.0,
        lifecycle=Lifecycle.READY,
        queue_len=2,
        running=5,
        slots=256,
        kv_usage=0.12345,
        ttft_ms=80.5,
    )
    return Target(
        key=target_key(node, model), node=node, model=model, state=state, received_at=99.75, unavailable=unavailable
    )


def make_view() -> RoutingView:
    a = make_target(GPU_A, MODEL, "emulated")
    b = make_target(GPU_B, MODEL, unavailable="node dead")
    gpu = GpuState(
        node=GPU_A,
        gpu_uuid="GPU-1",
        sequence=1,
        source_time=0.0,
        name="H100",
        health=GpuHealth.UNKNOWN,
        sm_utilization=0.5,
        memory_used_bytes=1,
        memory_total_bytes=2,
        temperature_c=60.0,
        power_w=300.0,
    )
    return RoutingView(
        version=7,
        built_at=99.0,
        nodes={
            GPU_B: make_record(GPU_B, NodeState.DEAD),
            GPU_A: make_record(GPU_A),
            EDGE: make_record(EDGE, role=Role.ROUTER),
        },
        eligible={MODEL: (a,), OTHER: ()},
        targets={b.key: b, a.key: a},
        gpus=(gpu,),
    )


def _inflight(key: TargetKey) -> int:
    return 4 if key == "gpu-a/m" else 0


def test_nodes_show_their_state_models_and_gpus_sorted_by_name() -> None:
    value = msgspec.to_builtins(nodes_value(make_view(), "edge", 100.0, _inflight))
    assert (value["me"], value["mode"], value["view_version"]) == ("edge", "mesh", 7)
    edge, gpu_a, gpu_b = value["nodes"]
    assert (edge["node"], edge["address"], edge["models"], edge["emulated"]) == ("edge", "", [], False)
    assert {key: gpu_a[key] for key in ("node", "roles", "zone", "state", "since_s", "rtt_ms", "address")} == {
        "node": "gpu-a",
        "roles": ["gpu"],
        "zone": "z1",
        "state": "alive",
        "since_s": 10.0,
        "rtt_ms": 1.5,
        "address": "[::1]:7443",
    }
    assert (gpu_a["emulated"], gpu_a["runtimes"]) == (True, ["emulated"])
    assert [(gpu["gpu_uuid"], gpu["health"]) for gpu in gpu_a["gpus"]] == [("GPU-1", "unknown")]
    [model] = gpu_a["models"]
    assert {key: model[key] for key in ("model", "runtime", "lifecycle", "queue_len", "running", "slots")} == {
        "model": "m",
        "runtime": "emulated",
        "lifecycle": "ready",
        "queue_len": 2,
        "running": 5,
        "slots": 256,
    }
    assert (model["kv_usage"], model["age_s"], model["inflight"], model["unavailable"]) == (0.123, 0.25, 4, "")
    assert (gpu_b["state"], gpu_b["reason"], gpu_b["models"][0]["unavailable"]) == (
        "dead",
        "silent for 3.1 s",
        "node dead",
    )


def test_models_sum_over_their_nodes_and_known_ones_without_a_node_show() -> None:
    assert models_value(make_view()) == {
        "models": [
            {
                "model": "m",
                "nodes": ["gpu-a", "gpu-b"],
                "ready": 1,
                "queue_len": 4,
                "running": 10,
                "slots": 512,
                "runtimes": ["emulated", "vllm"],
                "emulated": True,
            },
            {
                "model": "other",
                "nodes": [],
                "ready": 0,
                "queue_len": 0,
                "running": 0,
                "slots": 0,
                "runtimes": [],
                "emulated": False,
            },
        ]
    }


def test_targets_show_every_one_by_key() -> None:
    value = msgspec.to_builtins(targets_value(make_view(), 100.0, _inflight))
    assert [(target["target"], target["unavailable"]) for target in value["targets"]] == [
        ("gpu-a/m", ""),
        ("gpu-b/m", "node dead"),
    ]


def test_an_empty_view_shows_nothing() -> None:
    assert nodes_value(EMPTY_VIEW, "edge", 1.0, _inflight)["nodes"] == []
    assert models_value(EMPTY_VIEW) == {"models": []}
    assert targets_value(EMPTY_VIEW, 1.0, _inflight)["targets"] == []
