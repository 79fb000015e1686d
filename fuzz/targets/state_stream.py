"""Invariant: a state stream reads the same however cut; a message is a checked value, unknown, or refused.

Round trip: what was decoded, encoded and decoded again is the same value. Texts print, numbers are finite: one
NaN would poison every score, one line break would forge a log line.
"""

from __future__ import annotations

import math
import random
from collections.abc import Hashable, Iterator, Sequence
from typing import assert_never

from google.protobuf.message import DecodeError

from fuzz.target import Target, agreed, demand
from infermesh.core.model.names import ModelName, NodeId
from infermesh.core.model.state import GpuHealth, GpuState, Lifecycle, ModelState
from infermesh.planes.signal.codec import (
    Delta,
    Heartbeat,
    gpu_state_message,
    heartbeat_message,
    model_state_message,
    read_delta,
)
from wire.errors import RemoteProtocolError
from wire.grpc import MessageReader, RpcError, encode_message
from wire.grpc.framing import PLAIN
from wire.proto.infermesh.state.v1.state_pb2 import StateDelta

MESSAGE_BYTES_MAX = 1024  # The limit of the stream here, so that inputs of this size meet it.


def read(pieces: Sequence[bytes]) -> tuple[bool, list[bytes], int]:
    """(refused, messages, bytes pending). One more message may come before the refusal if it is fed in pieces."""
    reader = MessageReader(message_bytes_max=MESSAGE_BYTES_MAX)
    messages: list[bytes] = []
    for piece in pieces:
        try:
            found = reader.feed(piece)
        except RpcError:
            return True, [], 0
        if any(flag != PLAIN for flag, _ in found):  # No compression is offered for state streams.
            return True, [], 0
        messages += [message for _, message in found]
        demand(reader.pending_bytes <= MESSAGE_BYTES_MAX + 5, "more kept than one message", reader.pending_bytes)
    return False, messages, reader.pending_bytes


def check(data: bytes) -> Hashable:
    refused, messages, pending = agreed(data, read)
    if refused:
        return "refused"
    joined = b"".join(encode_message(message) for message in messages)
    demand(len(joined) + pending == len(data), "bytes lost or made up", len(joined), pending)
    return frozenset(_decode(message) for message in messages), bool(pending)


def _decode(message: bytes) -> str:
    try:
        delta = read_delta(StateDelta.FromString(message))
    except DecodeError:
        return "no protobuf"
    except RemoteProtocolError:
        return "refused"
    if delta is None:
        return "unknown"
    for value in _values(delta):
        if isinstance(value, str):
            demand(value.isprintable() and value, "a text that does not print", delta)
        elif isinstance(value, int | float):
            demand(math.isfinite(value) and value >= 0, "a number that is none", delta)
    again = read_delta(StateDelta.FromString(_raw(delta)))
    demand(again == delta, "written again, another value", delta, again)
    return type(delta).__name__


def _values(delta: Delta) -> list[object]:
    return [getattr(delta, name) for name in delta.__struct_fields__]


def _raw(delta: Delta) -> bytes:
    match delta:
        case ModelState():
            said = StateDelta(model_state=model_state_message(delta), epoch=1732460000, position=7)
        case GpuState():
            said = StateDelta(gpu_state=gpu_state_message(delta), epoch=1732460000, position=8)
        case Heartbeat():
            said = StateDelta(heartbeat=heartbeat_message(delta), epoch=1732460000, position=8)
        case _:
            assert_never(delta)
    return said.SerializeToString()


def _frame(delta: Delta) -> bytes:
    return encode_message(_raw(delta))


def with_length(data: bytes, rng: random.Random) -> bytes:
    """One plain change inside a message, its length prefix made right again: else most changes stop there."""
    reader = MessageReader()
    try:
        messages = [message for _, message in reader.feed(data)]
    except RpcError:
        messages = []
    if not messages:
        return encode_message(data[:1000])
    number = rng.randrange(len(messages))
    message = bytearray(messages[number])
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(message) + 1)
        if rng.random() < 0.5 and at < len(message):
            message[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
        elif rng.random() < 0.5:
            message[at:at] = rng.choice(_PIECES)
        else:
            del message[at : at + rng.randint(1, 9)]
    messages[number] = bytes(message)
    return b"".join(encode_message(each) for each in messages)


_PIECES = (
    b"\x00\x00\x00\x00\x00\x00\xf8\x7f",
    b"\x00\x00\x00\x00\x00\x00\xf0\xff",
    b"\x80" * 10 + b"\x01",
    b"\xff" * 9 + b"\x01",
    b"\x1b[2J",
    b"\n",
    b"\xed\xa0\x80",
    b"\x0a\x00",
    b"\x12\x02\x08\x01",
)


def seeds() -> Iterator[bytes]:
    model = ModelState(
        node=NodeId("gpu-a"),
        model=ModelName("org/model-7b"),
        runtime="vllm",
        incarnation=1732460000,
        sequence=7,
        source_time=1732460001.5,
        lifecycle=Lifecycle.READY,
        queue_len=3,
        running=4,
        slots=64,
        kv_usage=0.25,
        kv_capacity_tokens=400_000,
        ttft_ms=80.5,
        itl_ms=12.25,
        prompt_tokens_per_s=1000.0,
        generation_tokens_per_s=300.0,
        prefix_hit_rate=0.5,
        context_tokens_max=8192,
        replica=1,
    )
    gpu = GpuState(
        node=NodeId("gpu-a"),
        gpu_uuid="GPU-0",
        sequence=1,
        source_time=1732460001.5,
        name="card",
        health=GpuHealth.HEALTHY,
        sm_utilization=0.5,
        memory_used_bytes=1 << 30,
        memory_total_bytes=80 << 30,
        temperature_c=60.0,
        power_w=300.0,
    )
    beat = Heartbeat(sequence=9, sent_unix_s=1732460002.0)
    yield _frame(model)
    yield _frame(gpu)
    yield _frame(beat)
    yield _frame(beat) + _frame(model) + _frame(gpu)
    yield encode_message(b"") + encode_message(b"\x3a\x02\x08\x01")
    yield b"\x00\xff\xff\xff\xff\x01"
    yield b"\x01\x00\x00\x00\x01\x00"


TARGET = Target(
    check=check,
    seeds=seeds,
    covers=("infermesh.planes.signal.codec",),
    words=_PIECES,
    mutate=with_length,
)
