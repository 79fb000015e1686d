from __future__ import annotations

import math

import msgspec
import pytest
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
    decode_delta,
    encode_gpu_state,
    encode_heartbeat,
    encode_model_state,
)
from wire.errors import RemoteProtocolError
from wire.proto.delimited import DelimitedDecoder
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


def _decoded(frame: bytes) -> Delta | None:
    return decode_delta(_message(frame))


def _message(frame: bytes) -> bytes:
    (message,) = DelimitedDecoder().feed(frame)
    return message


def test_states_and_heartbeats_come_back_as_they_went_out() -> None:
    assert _decoded(encode_model_state(STATE)) == STATE
    assert _decoded(encode_gpu_state(GPU)) == GPU
    assert _decoded(encode_heartbeat(Heartbeat(9, 1.5))) == Heartbeat(9, 1.5)


@pytest.mark.parametrize("lifecycle", list(Lifecycle))
def test_every_lifecycle_has_a_number(lifecycle: Lifecycle) -> None:
    state = msgspec.structs.replace(STATE, lifecycle=lifecycle)
    assert _decoded(encode_model_state(state)) == state


@pytest.mark.parametrize("health", list(GpuHealth))
def test_every_gpu_health_has_a_number(health: GpuHealth) -> None:
    state = msgspec.structs.replace(GPU, health=health)
    assert _decoded(encode_gpu_state(state)) == state


def test_a_whole_state_stays_under_two_hundred_bytes() -> None:
    assert len(encode_model_state(STATE)) < 200


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
    message = state_pb2.StateDelta.FromString(_message(encode_model_state(STATE)))
    setattr(message.model_state, field, value)
    with pytest.raises(RemoteProtocolError, match=r"^model_state") as caught:
        decode_delta(message.SerializeToString())
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
    frame = encode_gpu_state(GPU)
    message = state_pb2.StateDelta.FromString(_message(frame))
    setattr(message.gpu_state, field, value)
    with pytest.raises(RemoteProtocolError) as caught:
        decode_delta(message.SerializeToString())
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
    assert _decoded(encode_model_state(state)) == state


def test_what_a_newer_version_may_send_is_skipped_or_read_as_unknown() -> None:
    # Field 99 of the envelope, a kind that we do not know: skipped.
    assert decode_delta(b"\x9a\x06\x01x") is None
    assert decode_delta(b"") is None
    message = state_pb2.StateDelta.FromString(_message(encode_model_state(STATE)))
    # Enums of proto3 are open: numbers without a name arrive as they are.
    message.model_state.MergeFromString(b"\x38\x63")
    decoded = decode_delta(message.SerializeToString())
    assert isinstance(decoded, ModelState)
    assert decoded.lifecycle is Lifecycle.UNKNOWN


@pytest.mark.parametrize("message", [b"\xff", b"\x0a\x05ab", b"\x0a\x04\x0a\x02\xff\xfe", b"<html>"])
def test_bytes_that_are_no_protobuf_are_refused(message: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match="not protobuf"):
        decode_delta(message)


@settings(deadline=None)
@given(st.binary(max_size=400))
def test_any_bytes_give_a_checked_value_or_one_plain_error(message: bytes) -> None:
    try:
        delta = decode_delta(message)
    except RemoteProtocolError:
        return
    if isinstance(delta, ModelState):
        assert _decoded(encode_model_state(delta)) == delta


@settings(deadline=None)
@given(st.integers(min_value=0, max_value=200), st.integers(min_value=0, max_value=255))
def test_a_state_with_one_byte_changed_is_refused_or_still_within_range(at: int, byte: int) -> None:
    message = bytearray(_message(encode_model_state(STATE)))
    message[at % len(message)] = byte
    try:
        delta = decode_delta(bytes(message))
    except RemoteProtocolError:
        return
    if isinstance(delta, ModelState):
        assert 0.0 <= delta.kv_usage <= 1.0
        assert 0.0 <= delta.prefix_hit_rate <= 1.0
        assert math.isfinite(delta.ttft_ms + delta.itl_ms + delta.source_time)
