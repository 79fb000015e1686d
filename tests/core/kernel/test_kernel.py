import math
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infermesh.core.fusion import FusionConfig
from infermesh.core.kernel import (
    EngineRestarted,
    Kernel,
    KernelConfig,
    NodeAlive,
    NodeDead,
    NodeLeft,
    NodeSuspect,
    TargetEjected,
    TargetForgotten,
    TargetFresh,
    TargetKnown,
    TargetLifecycle,
    TargetReadmitted,
    TargetSpared,
    TargetStale,
)
from infermesh.core.model.names import ModelName, NodeId, TargetKey
from infermesh.core.model.nodes import Address, NodeRecord, NodeState, Role
from infermesh.core.model.outcome import Outcome, Verdict
from infermesh.core.model.state import GpuHealth, GpuState, Lifecycle, ModelState
from infermesh.core.model.targets import RoutingView

ME = NodeId("edge")
GPU_A, GPU_B = NodeId("gpu-a"), NodeId("gpu-b")
MODEL = ModelName("m")
KEY_A, KEY_B = TargetKey("gpu-a/m"), TargetKey("gpu-b/m")


def record(node: NodeId, **fields: Any) -> NodeRecord:
    defaults: dict[str, Any] = {
        "node": node,
        "mesh_address": None if node == ME else Address(str(node), 7443),
        "roles": frozenset({Role.ROUTER if node == ME else Role.GPU}),
        "zone": "z1",
        "state": NodeState.JOINING,
        "since": 0.0,
    }
    return NodeRecord(**(defaults | fields))


def state(sequence: int, node: NodeId = GPU_A, **fields: Any) -> ModelState:
    defaults: dict[str, Any] = {
        "node": node,
        "model": MODEL,
        "runtime": "vllm",
        "incarnation": 1,
        "sequence": sequence,
        "source_time": 1000.0 + sequence,
        "lifecycle": Lifecycle.READY,
    }
    return ModelState(**(defaults | fields))


def gpu(sequence: int, node: NodeId = GPU_A) -> GpuState:
    return GpuState(
        node=node,
        gpu_uuid="GPU-1",
        sequence=sequence,
        source_time=1000.0 + sequence,
        name="H100",
        health=GpuHealth.HEALTHY,
        sm_utilization=0.5,
        memory_used_bytes=1,
        memory_total_bytes=2,
        temperature_c=60.0,
        power_w=300.0,
    )


def kernel(**config: Any) -> Kernel:
    return Kernel(KernelConfig(**config), ME, [record(ME), record(GPU_A), record(GPU_B)])


def running(now: float = 10.0) -> Kernel:
    """Two nodes, alive, each with the model."""
    core = kernel()
    for node in (GPU_A, GPU_B):
        core.on_node_state(node, NodeState.ALIVE, now, rtt_s=0.001)
        core.on_model_state(state(1, node), now)
    core.take_events()
    return core


def fail(core: Kernel, target: TargetKey, verdict: Verdict, times: int, now: float) -> None:
    for _ in range(times):
        core.on_outcome(Outcome(target=target, verdict=verdict, first_byte_s=0.0, total_s=0.0), now)


def eligible(view: RoutingView) -> list[str]:
    return [target.key for target in view.eligible.get(MODEL, ())]


def why(view: RoutingView, key: TargetKey = KEY_A) -> str:
    return view.targets[key].unavailable


def test_a_model_on_a_live_node_becomes_a_target() -> None:
    core = kernel()
    core.on_node_state(GPU_A, NodeState.ALIVE, now=9.0, rtt_s=0.002)
    assert core.on_model_state(state(1, queue_len=3), now=10.0)
    view = core.view(now=10.0)
    target = view.eligible[MODEL][0]
    assert (target.key, target.state.queue_len, target.received_at) == (KEY_A, 3, 10.0)
    assert (target.rtt_s, target.zone, target.suspect, target.unavailable) == (0.002, "z1", False, "")
    assert core.take_events() == [
        NodeAlive(at=9.0, node=GPU_A, away_s=0.0),
        TargetKnown(at=10.0, target=KEY_A, runtime="vllm", lifecycle=Lifecycle.READY),
    ]
    assert core.take_events() == []


def test_a_view_that_did_not_change_is_the_same_object() -> None:
    core = running()
    view = core.view(now=10.0)
    assert core.view(now=11.0) is view
    assert not core.on_model_state(state(1), now=11.0)
    fail(core, KEY_A, Verdict.OK, times=50, now=11.0)
    assert core.view(now=11.0) is view


def test_a_changed_view_is_a_later_version_and_leaves_the_earlier_one_alone() -> None:
    core = running()
    before = core.view(now=10.0)
    core.on_model_state(state(2, queue_len=9), now=10.5)
    after = core.view(now=10.5)
    assert after.version == before.version + 1
    assert (before.targets[KEY_A].state.queue_len, after.targets[KEY_A].state.queue_len) == (0, 9)
    assert after.targets[KEY_B] is before.targets[KEY_B]
    assert after.nodes is before.nodes


def test_targets_of_a_model_are_sorted_by_key_replicas_included() -> None:
    core = running()
    core.on_model_state(state(1, replica=1), now=10.0)
    assert eligible(core.view(now=10.0)) == ["gpu-a/m", "gpu-a/m#1", "gpu-b/m"]


def test_a_dead_node_takes_its_targets_out_at_once_and_its_return_brings_them_back() -> None:
    core = running()
    core.on_node_state(GPU_A, NodeState.DEAD, now=10.5, reason="connection refused")
    view = core.view(now=10.5)
    assert eligible(view) == [KEY_B]
    assert why(view) == "node dead"
    assert (view.nodes[GPU_A].state, view.nodes[GPU_A].reason) == (NodeState.DEAD, "connection refused")
    assert core.take_events() == [NodeDead(at=10.5, node=GPU_A, reason="connection refused", targets=1)]

    core.on_node_state(GPU_A, NodeState.ALIVE, now=12.0)
    assert why(core.view(now=12.0)).startswith("stale")
    # The reporting meshd began anew: lower numbers, an earlier clock.
    assert core.on_model_state(state(1, incarnation=0, source_time=0.0), now=12.1)
    assert eligible(core.view(now=12.1)) == [KEY_A, KEY_B]
    assert [type(event) for event in core.take_events()] == [NodeAlive, TargetFresh, EngineRestarted]


def test_a_suspect_node_is_flagged_and_stays_eligible() -> None:
    core = running()
    core.on_node_state(GPU_A, NodeState.SUSPECT, now=10.5, reason="silent for 1.5 s")
    view = core.view(now=10.5)
    assert [(target.key, target.suspect) for target in view.eligible[MODEL]] == [(KEY_A, True), (KEY_B, False)]
    core.on_node_state(GPU_A, NodeState.ALIVE, now=10.75)
    assert not core.view(now=10.75).targets[KEY_A].suspect
    assert core.take_events() == [
        NodeSuspect(at=10.5, node=GPU_A, reason="silent for 1.5 s"),
        NodeAlive(at=10.75, node=GPU_A, away_s=0.25),
    ]


def test_a_node_that_left_is_gone_with_all_its_targets_and_may_rejoin() -> None:
    core = running()
    core.view(now=10.0)
    core.on_node_state(GPU_A, NodeState.LEFT, now=10.5)
    view = core.view(now=10.5)
    assert KEY_A not in view.targets
    assert eligible(view) == [KEY_B]
    assert core.take_events() == [
        NodeLeft(at=10.5, node=GPU_A, targets=1),
        TargetForgotten(at=10.5, target=KEY_A),
    ]
    assert not core.on_model_state(state(9), now=10.6)
    assert core.ignored_unknown == 1
    core.on_node_state(GPU_A, NodeState.ALIVE, now=11.0)
    assert core.on_model_state(state(1), now=11.0)
    assert eligible(core.view(now=11.0)) == [KEY_A, KEY_B]


def test_a_silent_target_goes_stale_then_is_forgotten_and_its_model_with_the_last_one() -> None:
    core = running()
    core.on_node_state(GPU_B, NodeState.LEFT, now=10.0)
    core.view(now=10.0)
    core.take_events()
    core.on_wake(now=12.5)
    view = core.view(now=12.5)
    assert why(view) == "stale 2.5 s"
    assert view.eligible == {MODEL: ()}
    assert core.take_events() == [TargetStale(at=12.5, target=KEY_A, age_s=2.5)]
    core.on_model_state(state(2), now=13.0)
    assert eligible(core.view(now=13.0)) == [KEY_A]
    assert core.take_events() == [TargetFresh(at=13.0, target=KEY_A, silent_s=3.0)]
    core.on_wake(now=15.0)
    core.on_wake(now=313.0)
    view = core.view(now=313.0)
    assert (view.eligible, view.targets) == ({}, {})
    assert core.wake_at == math.inf


@pytest.mark.parametrize(
    ("lifecycle", "reason"),
    [(Lifecycle.LOADING, "loading"), (Lifecycle.FAILED, "failed"), (Lifecycle.UNKNOWN, "lifecycle unknown")],
)
def test_an_engine_that_is_not_ready_is_known_but_not_eligible(lifecycle: Lifecycle, reason: str) -> None:
    core = running()
    core.on_model_state(state(2, lifecycle=lifecycle), now=10.5)
    view = core.view(now=10.5)
    assert eligible(view) == [KEY_B]
    assert why(view) == reason
    assert core.take_events() == [
        TargetLifecycle(at=10.5, target=KEY_A, before=Lifecycle.READY, lifecycle=lifecycle),
    ]


def test_a_state_that_arrives_before_its_node_was_heard_alive_waits_for_that() -> None:
    core = kernel()
    core.on_model_state(state(1), now=10.0)
    assert why(core.view(now=10.0)) == "node joining"
    core.on_node_state(GPU_A, NodeState.ALIVE, now=10.1)
    assert eligible(core.view(now=10.1)) == [KEY_A]


def test_a_failing_target_is_ejected_and_readmitted_in_time() -> None:
    core = running()
    fail(core, KEY_A, Verdict.CONNECT_FAILED, times=2, now=10.5)
    view = core.view(now=11.5)
    assert eligible(view) == [KEY_B]
    assert why(view) == "ejected 4.0 s"
    for second in range(11, 16):
        core.on_model_state(state(second), now=float(second))
        core.on_model_state(state(second, GPU_B), now=float(second))
    core.on_wake(now=15.5)
    assert eligible(core.view(now=15.5)) == [KEY_A, KEY_B]
    assert core.take_events() == [
        TargetEjected(at=10.5, target=KEY_A, for_s=5.0, reason="2 connections refused in a row"),
        TargetReadmitted(at=15.5, target=KEY_A, early=False),
    ]


def test_the_last_good_target_is_spared_and_an_ejected_one_comes_back_when_it_is_needed() -> None:
    core = running()
    fail(core, KEY_A, Verdict.BROKEN, times=5, now=10.5)
    fail(core, KEY_B, Verdict.BROKEN, times=5, now=10.6)
    assert eligible(core.view(now=10.6)) == [KEY_B]
    core.on_node_state(GPU_B, NodeState.DEAD, now=10.7)
    assert eligible(core.view(now=10.7)) == [KEY_A]
    assert [type(event) for event in core.take_events()] == [
        TargetEjected,
        TargetSpared,
        NodeDead,
        TargetReadmitted,
    ]


def test_an_engine_that_was_restarted_is_not_ejected_for_its_former_life() -> None:
    core = running()
    fail(core, KEY_A, Verdict.BROKEN, times=5, now=10.5)
    core.on_model_state(state(2, incarnation=2), now=11.0)
    assert eligible(core.view(now=11.0)) == [KEY_A, KEY_B]
    assert core.take_events()[-2:] == [
        EngineRestarted(at=11.0, target=KEY_A, incarnation=2),
        TargetReadmitted(at=11.0, target=KEY_A, early=True),
    ]


def test_a_node_that_returns_from_death_is_not_ejected_for_having_been_dead() -> None:
    core = running()
    fail(core, KEY_A, Verdict.CONNECT_FAILED, times=2, now=10.5)
    core.on_node_state(GPU_A, NodeState.DEAD, now=10.6)
    core.on_node_state(GPU_A, NodeState.ALIVE, now=11.0)
    core.on_model_state(state(1, source_time=0.0, incarnation=0), now=11.0)
    core.on_model_state(state(2, GPU_B), now=11.0)
    assert eligible(core.view(now=11.0)) == [KEY_A, KEY_B]


def test_outcomes_of_unknown_targets_are_ignored() -> None:
    core = running()
    fail(core, TargetKey("gpu-z/m"), Verdict.BROKEN, times=50, now=10.0)
    assert core.take_events() == []


def test_states_of_unknown_nodes_are_ignored_until_membership_brings_the_node() -> None:
    core = running()
    stranger = NodeId("gpu-z")
    assert not core.on_model_state(state(1, stranger), now=10.0)
    assert not core.on_gpu_state(gpu(1, stranger), now=10.0)
    core.on_node_state(stranger, NodeState.ALIVE, now=10.0)
    assert core.ignored_unknown == 2
    core.on_node_record(record(stranger, zone="z9"), now=10.5)
    core.on_node_state(stranger, NodeState.ALIVE, now=10.5)
    core.on_model_state(state(1, stranger), now=10.5)
    assert core.view(now=10.5).targets[TargetKey("gpu-z/m")].zone == "z9"


def test_a_changed_address_or_zone_reaches_the_view_and_keeps_the_state() -> None:
    core = running()
    core.view(now=10.0)
    core.on_node_record(record(GPU_A, zone="z2", mesh_address=Address("elsewhere", 1)), now=10.5)
    view = core.view(now=10.5)
    assert view.targets[KEY_A].zone == "z2"
    assert (view.nodes[GPU_A].state, str(view.nodes[GPU_A].mesh_address)) == (NodeState.ALIVE, "elsewhere:1")


def test_a_round_trip_that_only_wanders_makes_no_new_view() -> None:
    core = running()
    view = core.view(now=10.0)
    core.on_node_state(GPU_A, NodeState.ALIVE, now=10.1, rtt_s=0.00105)
    assert core.view(now=10.1) is view
    core.on_node_state(GPU_A, NodeState.ALIVE, now=10.2, rtt_s=0.002)
    assert core.view(now=10.2).targets[KEY_A].rtt_s == 0.002


def test_this_very_node_is_alive_whatever_anybody_tells() -> None:
    core = kernel()
    core.on_node_state(ME, NodeState.DEAD, now=1.0, reason="rumour")
    core.on_model_state(state(1, ME), now=1.0)
    view = core.view(now=1.0)
    assert view.nodes[ME].state is NodeState.ALIVE
    assert eligible(view) == ["edge/m"]
    assert core.take_events()[0] == TargetKnown(
        at=1.0, target=TargetKey("edge/m"), runtime="vllm", lifecycle=Lifecycle.READY
    )


def test_gpu_readings_show_at_their_own_pace_and_vanish_with_their_node() -> None:
    core = running()
    core.on_gpu_state(gpu(1), now=10.0)
    assert core.wake_at <= 10.0
    view = core.view(now=10.0)
    assert [each.sequence for each in view.gpus] == [1]
    core.on_gpu_state(gpu(2), now=10.3)
    assert core.view(now=10.3) is view
    assert core.wake_at == 11.0
    core.on_wake(now=11.0)
    assert [each.sequence for each in core.view(now=11.0).gpus] == [2]
    core.on_node_state(GPU_A, NodeState.DEAD, now=11.5)
    assert core.view(now=12.1).gpus == ()


def test_drops_are_counted_by_reason() -> None:
    core = running()
    core.on_model_state(state(1), now=10.1)
    core.on_model_state(state(2, kv_usage=7.0), now=10.1)
    assert core.drops == {"duplicate": 1, "invalid": 1}
    assert core.last_fault == "kv_usage of 7.0; allowed are 0 to 1"


def test_events_that_nobody_takes_are_bounded_and_counted() -> None:
    core = kernel(events_max=3)
    for round_ in range(5):
        core.on_node_state(GPU_A, NodeState.ALIVE, now=round_ + 0.0)
        core.on_node_state(GPU_A, NodeState.DEAD, now=round_ + 0.5)
    assert len(core.take_events()) == 3
    assert core.events_dropped == 7


@pytest.mark.parametrize(
    ("nodes", "named"), [([record(GPU_A)], "lack this very node"), ([record(ME), record(ME)], "listed twice")]
)
def test_a_list_of_nodes_that_cannot_be_is_refused(nodes: list[NodeRecord], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        Kernel(KernelConfig(), ME, nodes)


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"gpus_every_s": -1.0}, "gpus_every_s"),
        ({"events_max": 0}, "events_max"),
        ({"fusion": FusionConfig(stale_after_s=-1.0)}, "stale_after_s"),
    ],
)
def test_a_setting_out_of_range_is_refused_by_name(config: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        kernel(**config)


_STEP = st.tuples(
    st.sampled_from(["alive", "suspect", "dead", "left", "state", "state", "state", "fail", "ok", "wake", "view"]),
    st.sampled_from([GPU_A, GPU_B]),
    st.sampled_from([MODEL, ModelName("other")]),
    st.floats(0.0, 1.5),
    st.sampled_from(list(Lifecycle)),
)


@pytest.mark.slow
@given(st.lists(_STEP, max_size=120))
def test_a_view_renewed_piece_by_piece_equals_one_built_from_nothing(
    steps: Sequence[tuple[str, NodeId, ModelName, float, Lifecycle]],
) -> None:
    core = kernel(fusion=FusionConfig(stale_after_s=2.0, forget_after_s=6.0))
    now, sequence = 0.0, 0
    for kind, node, model, wait_s, lifecycle in steps:
        now += wait_s
        if kind in ("alive", "suspect", "dead", "left"):
            core.on_node_state(node, NodeState(kind), now)
        elif kind == "state":
            sequence += 1
            core.on_model_state(state(sequence, node, model=model, lifecycle=lifecycle), now)
        elif kind in ("fail", "ok"):
            verdict = Verdict.BROKEN if kind == "fail" else Verdict.OK
            fail(core, TargetKey(f"{node}/{model}"), verdict, times=5, now=now)
        elif kind == "wake":
            core.on_wake(now)
        view = core.view(now)
        assert core.view(now) is view
        _check(view)
        # All targets dirty: what the pieces were renewed to must not differ from a whole renewal.
        for known in (ME, GPU_A, GPU_B):
            core._renew_node(known)
        whole = core.view(now)
        assert set(whole.targets) == set(view.targets)
        assert set(whole.eligible) == set(view.eligible)
        for name, targets in whole.eligible.items():
            assert [target.key for target in targets] == [target.key for target in view.eligible[name]]
        for key, target in whole.targets.items():
            assert bool(target.unavailable) == bool(view.targets[key].unavailable)
            assert (target.suspect, target.state) == (view.targets[key].suspect, view.targets[key].state)


def _check(view: RoutingView) -> None:
    found = [target for targets in view.eligible.values() for target in targets]
    assert {target.key for target in found} == {key for key, each in view.targets.items() if not each.unavailable}
    for model, targets in view.eligible.items():
        assert [target.key for target in targets] == sorted(target.key for target in targets)
        assert all(target.model == model for target in targets)
    for target in found:
        assert view.nodes[target.node].state in (NodeState.ALIVE, NodeState.SUSPECT)
        assert target.state.lifecycle is Lifecycle.READY
