import math
from typing import Any

import pytest

from infermesh.core.fusion.validity import gpu_state_fault, model_state_fault
from infermesh.core.model.names import ModelName, NodeId
from infermesh.core.model.state import GpuHealth, GpuState, Lifecycle, ModelState

MODEL: dict[str, Any] = {
    "node": NodeId("gpu-a"),
    "model": ModelName("m"),
    "runtime": "vllm",
    "incarnation": 1,
    "sequence": 1,
    "source_time": 1000.0,
    "lifecycle": Lifecycle.READY,
}
GPU: dict[str, Any] = {
    "node": NodeId("gpu-a"),
    "gpu_uuid": "GPU-1",
    "sequence": 1,
    "source_time": 1000.0,
    "name": "H100",
    "health": GpuHealth.UNKNOWN,
    "sm_utilization": 1.0,
    "memory_used_bytes": 0,
    "memory_total_bytes": 80 << 30,
    "temperature_c": -1.0,
    "power_w": 0.0,
}


def test_states_that_can_be_true_have_no_fault() -> None:
    assert model_state_fault(ModelState(**MODEL)) == ""
    assert model_state_fault(ModelState(**MODEL, kv_usage=1.0, queue_len=10**6, ttft_ms=1e9)) == ""
    assert gpu_state_fault(GpuState(**GPU)) == ""


@pytest.mark.parametrize(
    "field",
    [
        {"model": ""},
        {"model": "m" * 257},
        {"runtime": "r" * 65},
        {"replica": -1},
        {"queue_len": -1},
        {"running": 1 << 41},
        {"slots": -5},
        {"kv_usage": 1.01},
        {"kv_usage": math.nan},
        {"prefix_hit_rate": -0.1},
        {"ttft_ms": math.inf},
        {"itl_ms": math.nan},
        {"generation_tokens_per_s": -1.0},
        {"source_time": math.nan},
    ],
)
def test_an_impossible_model_state_is_named(field: dict[str, Any]) -> None:
    assert model_state_fault(ModelState(**(MODEL | field)))


@pytest.mark.parametrize("name", ["m#1", "a#b#20", "m\r\nx-evil: 1", "m\x1b[1m", " m", "m "])
def test_a_model_name_that_reads_as_a_replica_or_does_not_fit_into_a_header_is_refused(name: str) -> None:
    assert model_state_fault(ModelState(**(MODEL | {"model": ModelName(name)})))


@pytest.mark.parametrize("name", ["meta-llama/Llama-3", "m#", "m#a", "#", "modèle", "a model"])
def test_an_odd_model_name_that_harms_nobody_is_taken(name: str) -> None:
    assert model_state_fault(ModelState(**(MODEL | {"model": ModelName(name)}))) == ""


@pytest.mark.parametrize(
    "field",
    [
        {"gpu_uuid": ""},
        {"name": "n" * 257},
        {"sm_utilization": math.nan},
        {"memory_used_bytes": -1},
        {"memory_total_bytes": 1 << 60},
        {"temperature_c": math.nan},
        {"power_w": math.inf},
    ],
)
def test_an_impossible_gpu_state_is_named(field: dict[str, Any]) -> None:
    assert gpu_state_fault(GpuState(**(GPU | field)))
