"""State of models and GPUs as messages of `infermesh.state.v1`, and back.

Pure. Encoding trusts its input, which our own adapters made. Decoding trusts nothing: a peer with a valid
certificate can still be broken or of another version, and one NaN in a score would poison every choice. So
each value is checked, and the first wrong one raises RemoteProtocolError naming the message, the field and
what was seen. Kinds and enum values that a newer peer may know are not errors: they read as None and unknown.

Not here: whether the sender may speak for the node that it names. Whoever has the stream knows who is on the line.
"""

from __future__ import annotations

import math
from typing import Final

import msgspec

from infermesh.core.model.names import ModelName, NodeId
from infermesh.core.model.state import GpuHealth, GpuState, Lifecycle, ModelState
from wire.errors import RemoteProtocolError
from wire.proto.infermesh.state.v1 import state_pb2

# Names travel into logs, labels and tables. The longest real ones are hub paths of about 100 characters.
MODEL_NAME_CHARS_MAX: Final = 256
NODE_ID_CHARS_MAX: Final = 256
LABEL_CHARS_MAX: Final = 128
# Above any real count, and small enough that sums over a fleet stay exact in a float.
COUNT_MAX: Final = 2**31 - 1
NUMBER_MAX: Final = 2**53
# A node has at most so many runtimes, and names them in a header of four digits.
REPLICA_MAX: Final = 9_999
# Milliseconds and tokens per second: a million seconds, and far more tokens than any node makes.
RATE_MAX: Final = 1e9


class Heartbeat(msgspec.Struct, frozen=True):
    """The node lives and has nothing else to say."""

    sequence: int
    sent_unix_s: float


Delta = ModelState | GpuState | Heartbeat


def model_state_message(state: ModelState) -> state_pb2.ModelState:
    return state_pb2.ModelState(
        node=state.node,
        model=state.model,
        runtime=state.runtime,
        incarnation=state.incarnation,
        sequence=state.sequence,
        source_unix_s=state.source_time,
        lifecycle=_LIFECYCLE_NUMBERS[state.lifecycle],
        queue_len=state.queue_len,
        running=state.running,
        slots=state.slots,
        kv_usage=state.kv_usage,
        kv_capacity_tokens=state.kv_capacity_tokens,
        ttft_ms=state.ttft_ms,
        itl_ms=state.itl_ms,
        prompt_tokens_per_s=state.prompt_tokens_per_s,
        generation_tokens_per_s=state.generation_tokens_per_s,
        prefix_hit_rate=state.prefix_hit_rate,
        context_tokens_max=state.context_tokens_max,
        replica=state.replica,
    )


def gpu_state_message(state: GpuState) -> state_pb2.GpuState:
    return state_pb2.GpuState(
        node=state.node,
        gpu_uuid=state.gpu_uuid,
        sequence=state.sequence,
        source_unix_s=state.source_time,
        name=state.name,
        health=_HEALTH_NUMBERS[state.health],
        sm_utilization=state.sm_utilization,
        memory_used_bytes=state.memory_used_bytes,
        memory_total_bytes=state.memory_total_bytes,
        temperature_c=state.temperature_c,
        power_w=state.power_w,
    )


def heartbeat_message(heartbeat: Heartbeat) -> state_pb2.Heartbeat:
    return state_pb2.Heartbeat(sequence=heartbeat.sequence, sent_unix_s=heartbeat.sent_unix_s)


def read_delta(delta: state_pb2.StateDelta) -> Delta | None:
    """What one message says; None: a kind that this version does not know. Raises RemoteProtocolError."""
    kind = delta.WhichOneof("delta")
    if kind == "model_state":
        return read_model_state(delta.model_state)
    if kind == "heartbeat":
        return Heartbeat(
            sequence=_integer(delta.heartbeat.sequence, "heartbeat", "sequence", NUMBER_MAX),
            sent_unix_s=_number(delta.heartbeat.sent_unix_s, "heartbeat", "sent_unix_s", NUMBER_MAX),
        )
    if kind == "gpu_state":
        return read_gpu_state(delta.gpu_state)
    return None


def read_model_state(message: state_pb2.ModelState) -> ModelState:
    model = _text(message.model, "model_state", "model", MODEL_NAME_CHARS_MAX)
    where = f"model_state of {model}"
    return ModelState(
        node=NodeId(_text(message.node, where, "node", NODE_ID_CHARS_MAX)),
        model=ModelName(model),
        runtime=_text(message.runtime, where, "runtime", LABEL_CHARS_MAX),
        incarnation=_integer(message.incarnation, where, "incarnation", NUMBER_MAX),
        sequence=_integer(message.sequence, where, "sequence", NUMBER_MAX),
        source_time=_number(message.source_unix_s, where, "source_unix_s", NUMBER_MAX),
        lifecycle=_LIFECYCLES.get(message.lifecycle, Lifecycle.UNKNOWN),
        queue_len=_integer(message.queue_len, where, "queue_len", COUNT_MAX),
        running=_integer(message.running, where, "running", COUNT_MAX),
        slots=_integer(message.slots, where, "slots", COUNT_MAX),
        kv_usage=_number(message.kv_usage, where, "kv_usage", 1.0),
        kv_capacity_tokens=_integer(message.kv_capacity_tokens, where, "kv_capacity_tokens", NUMBER_MAX),
        ttft_ms=_number(message.ttft_ms, where, "ttft_ms", RATE_MAX),
        itl_ms=_number(message.itl_ms, where, "itl_ms", RATE_MAX),
        prompt_tokens_per_s=_number(message.prompt_tokens_per_s, where, "prompt_tokens_per_s", RATE_MAX),
        generation_tokens_per_s=_number(message.generation_tokens_per_s, where, "generation_tokens_per_s", RATE_MAX),
        prefix_hit_rate=_number(message.prefix_hit_rate, where, "prefix_hit_rate", 1.0),
        context_tokens_max=_integer(message.context_tokens_max, where, "context_tokens_max", COUNT_MAX),
        replica=_integer(message.replica, where, "replica", REPLICA_MAX),
    )


def read_gpu_state(message: state_pb2.GpuState) -> GpuState:
    gpu_uuid = _text(message.gpu_uuid, "gpu_state", "gpu_uuid", LABEL_CHARS_MAX)
    where = f"gpu_state of {gpu_uuid}"
    return GpuState(
        node=NodeId(_text(message.node, where, "node", NODE_ID_CHARS_MAX)),
        gpu_uuid=gpu_uuid,
        sequence=_integer(message.sequence, where, "sequence", NUMBER_MAX),
        source_time=_number(message.source_unix_s, where, "source_unix_s", NUMBER_MAX),
        name=_text(message.name, where, "name", LABEL_CHARS_MAX),
        health=_HEALTHS.get(message.health, GpuHealth.UNKNOWN),
        sm_utilization=_number(message.sm_utilization, where, "sm_utilization", 1.0),
        memory_used_bytes=_integer(message.memory_used_bytes, where, "memory_used_bytes", NUMBER_MAX),
        memory_total_bytes=_integer(message.memory_total_bytes, where, "memory_total_bytes", NUMBER_MAX),
        temperature_c=_number(message.temperature_c, where, "temperature_c", RATE_MAX),
        power_w=_number(message.power_w, where, "power_w", RATE_MAX),
    )


def _text(value: str, where: str, field: str, chars_max: int) -> str:
    if not value or len(value) > chars_max:
        raise RemoteProtocolError(f"{where}: {field} has {len(value)} characters; 1 to {chars_max} allowed")
    # A line break in a name would forge log lines, an escape sequence would drive the operator's terminal.
    if not value.isprintable():
        raise RemoteProtocolError(f"{where}: {field} holds characters that do not print: {value[:64]!a}")
    return value


def _integer(value: int, where: str, field: str, value_max: int) -> int:
    if value > value_max:
        raise RemoteProtocolError(f"{where}: {field} is {value}, at most {value_max} is allowed")
    return value


def _number(value: float, where: str, field: str, value_max: float) -> float:
    # Written so that NaN, which compares false with everything, is refused too.
    if not 0.0 <= value <= value_max:
        seen = value if math.isfinite(value) else f"{value}, not a finite number"
        raise RemoteProtocolError(f"{where}: {field} is {seen}; 0 to {value_max:g} is allowed")
    return value


_LIFECYCLE_NUMBERS: Final = {
    Lifecycle.UNKNOWN: state_pb2.LIFECYCLE_UNKNOWN,
    Lifecycle.LOADING: state_pb2.LIFECYCLE_LOADING,
    Lifecycle.READY: state_pb2.LIFECYCLE_READY,
    Lifecycle.FAILED: state_pb2.LIFECYCLE_FAILED,
}
_LIFECYCLES: Final = {int(number): lifecycle for lifecycle, number in _LIFECYCLE_NUMBERS.items()}
_HEALTH_NUMBERS: Final = {
    GpuHealth.UNKNOWN: state_pb2.GPU_HEALTH_UNKNOWN,
    GpuHealth.HEALTHY: state_pb2.GPU_HEALTH_HEALTHY,
    GpuHealth.DEGRADED: state_pb2.GPU_HEALTH_DEGRADED,
    GpuHealth.FAILED: state_pb2.GPU_HEALTH_FAILED,
}
_HEALTHS: Final = {int(number): health for health, number in _HEALTH_NUMBERS.items()}
