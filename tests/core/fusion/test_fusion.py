import math
import random
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infermesh.core.fusion import Drop, Forgotten, Fusion, FusionConfig, Stale
from infermesh.core.model.names import ModelName, NodeId, TargetKey
from infermesh.core.model.state import GpuHealth, GpuState, Lifecycle, ModelState

NODE = NodeId("gpu-a")
MODEL = ModelName("m")
KEY = TargetKey("gpu-a/m")


def state(sequence: int, **fields: Any) -> ModelState:
    defaults: dict[str, Any] = {
        "node": NODE,
        "model": MODEL,
        "runtime": "vllm",
        "incarnation": 1,
        "sequence": sequence,
        "source_time": 1000.0 + sequence,
        "lifecycle": Lifecycle.READY,
    }
    return ModelState(**(defaults | fields))


def gpu(sequence: int, **fields: Any) -> GpuState:
    defaults: dict[str, Any] = {
        "node": NODE,
        "gpu_uuid": "GPU-1",
        "sequence": sequence,
        "source_time": 1000.0 + sequence,
        "name": "H100",
        "health": GpuHealth.HEALTHY,
        "sm_utilization": 0.5,
        "memory_used_bytes": 1,
        "memory_total_bytes": 2,
        "temperature_c": 60.0,
        "power_w": 300.0,
    }
    return GpuState(**(defaults | fields))


def fusion(**config: Any) -> Fusion:
    return Fusion(FusionConfig(**config))


def held(core: Fusion, key: TargetKey = KEY) -> tuple[int, int]:
    report = core.report(key)
    assert report is not None
    return report.state.incarnation, report.state.sequence


def test_the_newest_state_is_kept_with_the_time_of_its_receipt() -> None:
    core = fusion()
    assert core.on_model_state(state(1), now=10.0)
    assert core.on_model_state(state(2, queue_len=7), now=10.5)
    report = core.report(KEY)
    assert report is not None
    assert (report.state.queue_len, report.received_at, report.fresh) == (7, 10.5, True)


def test_duplicates_and_older_states_are_dropped_and_counted_by_their_reason() -> None:
    core = fusion()
    core.on_model_state(state(5, incarnation=3), now=10.0)
    assert not core.on_model_state(state(5, incarnation=3), now=10.1)
    assert not core.on_model_state(state(4, incarnation=3), now=10.2)
    assert not core.on_model_state(state(4, incarnation=2), now=10.3)
    assert core.drops == {Drop.DUPLICATE: 1, Drop.OLD_SEQUENCE: 1, Drop.OLD_INCARNATION: 1}
    report = core.report(KEY)
    assert report is not None
    assert report.received_at == 10.0


def test_a_new_engine_supersedes_the_old_one_even_with_a_lower_sequence() -> None:
    core = fusion()
    core.on_model_state(state(900, incarnation=1), now=10.0)
    assert core.on_model_state(state(3, incarnation=2, source_time=0.0), now=10.1)
    assert held(core) == (2, 3)


def test_replicas_of_one_model_are_counted_apart() -> None:
    core = fusion()
    core.on_model_state(state(5), now=10.0)
    assert core.on_model_state(state(1, replica=1), now=10.0)
    assert held(core, TargetKey("gpu-a/m#1")) == (1, 1)


def test_a_new_stream_may_start_its_sequence_anew() -> None:
    core = fusion()
    core.on_model_state(state(500, incarnation=9), now=10.0)
    core.on_stream_start(NODE, now=11.0)
    assert core.on_model_state(state(1, incarnation=8, source_time=0.0), now=11.1)
    assert not core.on_model_state(state(1, incarnation=8, source_time=0.0), now=11.2)
    assert held(core) == (8, 1)


def test_the_same_sample_over_a_new_stream_does_not_look_young() -> None:
    core = fusion()
    core.on_model_state(state(5), now=10.0)
    core.on_stream_start(NODE, now=11.0)
    assert not core.on_model_state(state(5), now=11.1)
    assert core.on_model_state(state(2, source_time=0.0), now=11.2)


def test_another_run_is_recognised_by_its_later_sample_even_when_nobody_told_of_its_stream() -> None:
    core = fusion()
    core.on_model_state(state(500, incarnation=9, source_time=2000.0), now=10.0)
    assert core.on_model_state(state(1, incarnation=8, source_time=2001.0), now=11.0)
    assert core.on_model_state(state(2, incarnation=8, source_time=2002.0), now=12.0)


def test_a_state_that_was_not_heard_of_goes_stale_and_is_then_forgotten() -> None:
    core = fusion(stale_after_s=2.0, forget_after_s=300.0)
    core.on_model_state(state(1), now=10.0)
    assert core.wake_at == 12.0
    assert core.on_wake(now=12.0) == [Stale(KEY, 2.0)]
    assert core.wake_at == 310.0
    assert core.on_wake(now=309.9) == []
    assert core.on_wake(now=310.0) == [Forgotten(KEY, NODE, MODEL)]
    assert core.report(KEY) is None
    assert len(core) == 0
    assert core.wake_at == math.inf


def test_a_report_in_time_postpones_staleness_without_being_waited_for() -> None:
    core = fusion(stale_after_s=2.0)
    core.on_model_state(state(1), now=10.0)
    core.on_model_state(state(2), now=11.5)
    assert core.on_wake(now=12.0) == []
    assert core.wake_at == 13.5
    assert core.on_wake(now=13.5) == [Stale(KEY, 2.0)]


def test_a_stale_state_is_fresh_again_with_the_next_report_and_can_go_stale_again() -> None:
    core = fusion(stale_after_s=2.0)
    core.on_model_state(state(1), now=10.0)
    core.on_wake(now=12.0)
    assert core.on_model_state(state(2), now=20.0)
    report = core.report(KEY)
    assert report is not None and report.fresh
    assert core.on_wake(now=core.wake_at) == [Stale(KEY, 2.0)]


def test_a_late_wake_tells_forgetting_without_a_word_of_staleness() -> None:
    core = fusion()
    core.on_model_state(state(1), now=10.0)
    assert core.on_wake(now=1000.0) == [Forgotten(KEY, NODE, MODEL)]


def test_a_dead_node_makes_its_fresh_states_stale_at_once_and_only_once() -> None:
    core = fusion()
    core.on_model_state(state(1), now=10.0)
    core.on_model_state(state(1, node=NodeId("gpu-b")), now=10.0)
    assert core.on_node_gone(NODE, now=10.5) == [Stale(KEY, 0.5)]
    assert core.on_node_gone(NODE, now=10.6) == []
    assert core.on_wake(now=11.9) == []
    assert core.on_model_state(state(1, source_time=0.0, incarnation=0), now=12.0)


def test_a_node_that_left_is_forgotten_whole() -> None:
    core = fusion()
    core.on_model_state(state(1), now=10.0)
    core.on_gpu_state(gpu(1), now=10.0)
    assert core.forget_node(NODE) == [Forgotten(KEY, NODE, MODEL)]
    assert core.gpus() == ()
    assert core.on_wake(now=20.0) == []
    assert core.forget_node(NODE) == []


def test_a_forgotten_target_that_reports_again_keeps_its_own_time() -> None:
    core = fusion(stale_after_s=2.0)
    core.on_model_state(state(1), now=10.0)
    core.forget_node(NODE)
    core.on_model_state(state(1), now=11.0)
    assert core.on_wake(now=12.0) == []
    assert core.on_wake(now=13.0) == [Stale(KEY, 2.0)]


def test_flapping_targets_do_not_fill_the_memory() -> None:
    core = fusion()
    for sequence in range(5000):
        core.on_model_state(state(sequence), now=float(sequence) / 100)
        core.on_node_gone(NODE, now=float(sequence) / 100)
    assert len(core._due) < 200


def test_a_node_may_bring_only_so_many_models_and_gpus() -> None:
    core = fusion(models_per_node_max=2, gpus_per_node_max=1)
    for name in ("a", "b", "c"):
        core.on_model_state(state(1, model=ModelName(name)), now=10.0)
    core.on_gpu_state(gpu(1), now=10.0)
    core.on_gpu_state(gpu(1, gpu_uuid="GPU-2"), now=10.0)
    assert len(core) == 2
    assert core.drops == {Drop.TABLE_FULL: 2}
    assert core.on_model_state(state(1, node=NodeId("gpu-b")), now=10.0)


def test_an_impossible_state_is_dropped_and_leaves_the_held_one_as_it_is() -> None:
    core = fusion()
    assert not core.on_model_state(state(1, kv_usage=math.nan), now=10.0)
    assert len(core) == 0
    core.on_model_state(state(2), now=10.0)
    assert not core.on_model_state(state(3, queue_len=-1), now=11.0)
    assert not core.on_gpu_state(gpu(1, temperature_c=math.inf), now=11.0)
    assert held(core) == (1, 2)
    assert core.drops == {Drop.INVALID: 3}
    assert core.last_fault == "a reading of inf"


def test_gpus_are_kept_newest_first_and_told_in_order() -> None:
    core = fusion()
    core.on_gpu_state(gpu(2, gpu_uuid="GPU-2"), now=10.0)
    core.on_gpu_state(gpu(2), now=10.0)
    assert not core.on_gpu_state(gpu(2), now=10.1)
    assert not core.on_gpu_state(gpu(1), now=10.1)
    assert core.on_gpu_state(gpu(3, power_w=1.0), now=10.2)
    assert [(each.gpu_uuid, each.sequence) for each in core.gpus()] == [("GPU-1", 3), ("GPU-2", 2)]
    core.on_stream_start(NODE, now=11.0)
    assert core.on_gpu_state(gpu(1), now=11.1)


def test_a_gpu_that_nobody_speaks_of_is_forgotten() -> None:
    core = fusion(forget_after_s=300.0)
    core.on_gpu_state(gpu(1), now=10.0)
    core.on_gpu_state(gpu(1, gpu_uuid="GPU-2"), now=50.0)
    assert core.wake_at == 310.0
    core.on_wake(now=310.0)
    assert [each.gpu_uuid for each in core.gpus()] == ["GPU-2"]
    core.on_wake(now=350.0)
    assert core.gpus() == ()
    assert core.wake_at == math.inf


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"stale_after_s": 0.0}, "stale_after_s"),
        ({"stale_after_s": 5.0, "forget_after_s": 5.0}, "forget_after_s"),
        ({"models_per_node_max": 0}, "models_per_node_max"),
        ({"gpus_per_node_max": 0}, "gpus_per_node_max"),
    ],
)
def test_a_setting_out_of_range_is_refused_by_name(config: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        Fusion(FusionConfig(**config))


@given(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 30)), min_size=1, max_size=60), st.integers(0, 2**32))
def test_any_order_and_any_repetition_of_one_runs_states_ends_with_the_newest(
    stamps: Sequence[tuple[int, int]], seed: int
) -> None:
    # In one run source time grows with (incarnation, sequence).
    states = [
        state(number, incarnation=incarnation, source_time=incarnation * 1000.0 + number)
        for incarnation, number in stamps
    ]
    random.Random(seed).shuffle(states)
    core = fusion()
    newest = (0, 0)
    for each in states:
        taken = core.on_model_state(each, now=1.0)
        assert taken == ((each.incarnation, each.sequence) > newest)
        newest = max(newest, (each.incarnation, each.sequence))
        assert held(core) == newest


@given(st.lists(st.tuples(st.sampled_from("abc"), st.floats(0.0, 5.0), st.booleans()), max_size=80))
def test_at_every_moment_a_state_is_fresh_just_when_it_was_heard_of_in_time(
    steps: Sequence[tuple[str, float, bool]],
) -> None:
    core = fusion(stale_after_s=2.0, forget_after_s=6.0)
    heard: dict[str, float] = {}
    now, sequence = 0.0, 0
    for name, wait_s, report in steps:
        until = now + wait_s
        while core.wake_at <= until:  # A driver wakes it in time, and each wake brings it further.
            now = max(now, core.wake_at)
            core.on_wake(now)
            assert core.wake_at > now
        now = until
        if report:
            sequence += 1
            core.on_model_state(state(sequence, node=NodeId(name)), now)
            heard[name] = now
        for each, at in heard.items():
            found = core.report(TargetKey(f"{each}/m"))
            assert (found is None) == (now >= at + 6.0)
            assert found is None or found.fresh == (now < at + 2.0)
