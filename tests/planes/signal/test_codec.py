from __future__ import annotations

import math
from typing import assert_never

import msgspec
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

from infermesh.core.model.names import ModelName, NodeId
from infermesh.core.model.state import GpuHealth, GpuState, Lifecycle, ModelState
from infermesh.planes.signal.codec import (
    COUNT_MAX,
    MODEL_NAME_CHARS_MAX,
    NUMBER_MAX,
    RATE_MAX,
    REPLICA_MAX,
    Delta,
    Heartbeat,
    gpu_state_message,
    heartbeat_message,
    model_state_message,
    read_delta,
)
from wire.errors import RemoteProtocolError
from wire.proto.infermesh.state.v1 import state_pb2

STATE = ModelState(
    node=NodeId("gpu-a"),
    model=ModelName("org/model-8b"),
    runtime="vllm",
    incarnation=1795483664820,
    sequence=7,
    source_time=1795483700.5,
    lifecycle=Lifecycle.READY,
    queue_len=3,
    running=8,
    slots=256,
    kv_usage=0.25,
    kv_capacity_tokens=1048576,
    ttft_ms=312.5,
    itl_ms=17.25,
    prompt_tokens_per_s=1000.0,
    generation_tokens_per_s=250.0,
    prefix_hit_rate=0.5,
    context_tokens_max=1024,
    replica=1,
)
GPU = GpuState(
    node=NodeId("gpu-a"),
    gpu_uuid="GPU-1",
    sequence=3,
    source_time=1795483700.5,
    name="NVIDIA H100",
    health=GpuHealth.HEALTHY,
    sm_utilization=0.5,
    memory_used_bytes=40 * 2**30,
    memory_total_bytes=80 * 2**30,
    temperature_c=54.0,
    power_w=612.3,
)


def _envelope(said: Delta) -> state_pb2.StateDelta:
    match said:
        case ModelState():
            return state_pb2.StateDelta(model_state=model_state_message(said))
        case GpuState():
            return state_pb2.StateDelta(gpu_state=gpu_state_message(said))
        case Heartbeat():
            return state_pb2.StateDelta(heartbeat=heartbeat_message(said))
        case _:
            assert_never(said)


def _over_the_wire(said: Delta) -> Delta | None:
    return read_delta(state_pb2.StateDelta.FromString(_envelope(said).SerializeToString()))


def test_states_and_heartbeats_come_back_as_they_went_out() -> None:
    for said in (STATE, GPU, Heartbeat(9, 1.5)):
        assert _over_the_wire(said) == said


@pytest.mark.parametrize("lifecycle", list(Lifecycle))
def test_every_lifecycle_has_a_number(lifecycle: Lifecycle) -> None:
    state = msgspec.structs.replace(STATE, lifecycle=lifecycle)
    assert _over_the_wire(state) == state


@pytest.mark.parametrize("health", list(GpuHealth))
def test_every_gpu_health_has_a_number(health: GpuHealth) -> None:
    state = msgspec.structs.replace(GPU, health=health)
    assert _over_the_wire(state) == state


def test_a_whole_state_stays_under_two_hundred_bytes() -> None:
    assert _envelope(STATE).ByteSize() < 200


MODEL_BREAKAGES = [
    ("node", "", "node has 0 characters"),
    ("node", "n" * 257, "node has 257 characters"),
    ("model", "", "model has 0 characters"),
    ("model", "m" * (MODEL_NAME_CHARS_MAX + 1), "model has 257 characters"),
    ("model", "a\nb", "do not print"),
    ("model", "a\x1b[2Jb", "do not print"),
    ("runtime", "r" * 129, "runtime has 129 characters"),
    ("incarnation", NUMBER_MAX + 1, "incarnation is"),
    ("sequence", 2**64 - 1, "sequence is"),
    ("source_unix_s", math.nan, "source_unix_s is nan, not a finite number"),
    ("queue_len", COUNT_MAX + 1, "queue_len is"),
    ("running", 2**32 - 1, "running is"),
    ("slots", 2**32 - 1, "slots is"),
    ("kv_usage", 1.0000001, "kv_usage is 1.0000001; 0 to 1 is allowed"),
    ("kv_usage", -0.1, "kv_usage is -0.1"),
    ("kv_usage", math.nan, "kv_usage is nan"),
    ("kv_capacity_tokens", 2**63, "kv_capacity_tokens is"),
    ("ttft_ms", math.inf, "ttft_ms is inf, not a finite number"),
    ("itl_ms", -math.inf, "itl_ms is -inf"),
    ("prompt_tokens_per_s", RATE_MAX * 2, "prompt_tokens_per_s is"),
    ("generation_tokens_per_s", -1.0, "generation_tokens_per_s is"),
    ("prefix_hit_rate", 2.0, "prefix_hit_rate is"),
    ("context_tokens_max", 2**31, "context_tokens_max is"),
    ("replica", REPLICA_MAX + 1, "replica is 10000, at most 9999 is allowed"),
]


@pytest.mark.parametrize(("field", "value", "why"), MODEL_BREAKAGES)
def test_a_model_state_with_one_impossible_value_is_refused_and_the_value_named(
    field: str, value: object, why: str
) -> None:
    message = _envelope(STATE)
    setattr(message.model_state, field, value)
    with pytest.raises(RemoteProtocolError, match=r"^model_state") as caught:
        read_delta(message)
    assert why in str(caught.value)


GPU_BREAKAGES = [
    ("node", "", "node has 0 characters"),
    ("gpu_uuid", "", "gpu_uuid has 0 characters"),
    ("name", "x" * 129, "name has 129 characters"),
    ("sequence", 2**64 - 1, "sequence is"),
    ("source_unix_s", -1.0, "source_unix_s is"),
    ("sm_utilization", 1.5, "sm_utilization is"),
    ("memory_used_bytes", 2**63, "memory_used_bytes is"),
    ("memory_total_bytes", 2**63, "memory_total_bytes is"),
    ("temperature_c", math.nan, "temperature_c is nan"),
    ("power_w", math.inf, "power_w is inf"),
]


@pytest.mark.parametrize(("field", "value", "why"), GPU_BREAKAGES)
def test_a_gpu_state_with_one_impossible_value_is_refused_and_the_value_named(
    field: str, value: object, why: str
) -> None:
    message = _envelope(GPU)
    setattr(message.gpu_state, field, value)
    with pytest.raises(RemoteProtocolError) as caught:
        read_delta(message)
    assert why in str(caught.value)


def test_values_at_their_limits_are_taken() -> None:
    state = msgspec.structs.replace(
        STATE,
        model=ModelName("m" * MODEL_NAME_CHARS_MAX),
        sequence=NUMBER_MAX,
        queue_len=COUNT_MAX,
        kv_usage=1.0,
        ttft_ms=RATE_MAX,
        source_time=0.0,
    )
    assert _over_the_wire(state) == state


def test_what_a_newer_version_may_send_is_skipped_or_read_as_unknown() -> None:
    # Field 99 of the envelope, a kind that we do not know: skipped.
    assert read_delta(state_pb2.StateDelta.FromString(b"\x9a\x06\x01x")) is None
    assert read_delta(state_pb2.StateDelta()) is None
    message = _envelope(STATE)
    # Enums of proto3 are open: numbers without a name arrive as they are.
    message.model_state.MergeFromString(b"\x38\x63")
    decoded = read_delta(message)
    assert isinstance(decoded, ModelState)
    assert decoded.lifecycle is Lifecycle.UNKNOWN


def test_a_beat_that_counts_beyond_reason_is_refused() -> None:
    beat = state_pb2.StateDelta(heartbeat=state_pb2.Heartbeat(sequence=2**64 - 1))
    with pytest.raises(RemoteProtocolError, match="heartbeat: sequence is"):
        read_delta(beat)


def _read(raw: bytes) -> Delta | None:
    """None also for what gRPC would not have let through."""
    try:
        return read_delta(state_pb2.StateDelta.FromString(raw))
    except (DecodeError, RemoteProtocolError):
        return None


@settings(deadline=None)
@given(st.binary(max_size=400))
def test_any_message_gives_a_checked_value_or_one_plain_error(raw: bytes) -> None:
    delta = _read(raw)
    if delta is not None:
        assert _over_the_wire(delta) == delta


@settings(deadline=None)
@given(st.integers(min_value=0, max_value=200), st.integers(min_value=0, max_value=255))
def test_a_state_with_one_byte_changed_is_refused_or_still_within_range(at: int, byte: int) -> None:
    raw = bytearray(_envelope(STATE).SerializeToString())
    raw[at % len(raw)] = byte
    delta = _read(bytes(raw))
    if isinstance(delta, ModelState):
        assert 0.0 <= delta.kv_usage <= 1.0
        assert 0.0 <= delta.prefix_hit_rate <= 1.0
        assert math.isfinite(delta.ttft_ms + delta.itl_ms + delta.source_time)
