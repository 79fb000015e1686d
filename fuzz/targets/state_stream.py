"""Invariant: a state stream reads the same however cut; a message is a checked value, unknown, or refused.

Round trip: what was decoded, encoded and decoded again is the same value. Texts print, numbers are finite: one
NaN would poison every score, one line break would forge a log line.
"""

from __future__ import annotations

import math
import random
from collections.abc import Hashable, Iterator, Sequence

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
from wire.proto.delimited import DelimitedDecoder, encode_delimited
from wire.proto.infermesh.state.v1 import state_pb2

MESSAGE_BYTES_MAX = 1024  # The limit of the stream here, so that inputs of this size meet it.


def read(pieces: Sequence[bytes]) -> tuple[bool, list[bytes], int]:
    """(refused, messages, bytes pending). One more message may come before the refusal if it is fed in pieces."""
    decoder = DelimitedDecoder(message_bytes_max=MESSAGE_BYTES_MAX)
    messages: list[bytes] = []
    for piece in pieces:
        try:
            messages += decoder.feed(piece)
        except RemoteProtocolError:
            return True, [], 0
        demand(decoder.pending_bytes <= MESSAGE_BYTES_MAX + 5, "more kept than one message", decoder.pending_bytes)
    return False, messages, decoder.pending_bytes


def check(data: bytes) -> Hashable:
    refused, messages, pending = agreed(data, read)
    if refused:
        return "refused"
    joined = b"".join(encode_delimited(message) for message in messages)
    demand(len(joined) + pending <= len(data), "more than came", len(joined), pending)
    return frozenset(_decode(message) for message in messages), bool(pending)


def _decode(message: bytes) -> str:
    try:
        delta = read_delta(state_pb2.StateDelta.FromString(message))
    except DecodeError:
        return "no protobuf"  # Said by whoever carries the message.
    except RemoteProtocolError:
        return "refused"
    if delta is None:
        return "unknown"
    for value in _values(delta):
        if isinstance(value, str):
            demand(value.isprintable() and value, "a text that does not print", delta)
        elif isinstance(value, int | float):
            demand(math.isfinite(value) and value >= 0, "a number that is none", delta)
    _, (again,), _ = read([_encoded(delta)])
    read_again = read_delta(state_pb2.StateDelta.FromString(again))
    demand(read_again == delta, "written again, another value", delta, read_again)
    return type(delta).__name__


def _values(delta: Delta) -> list[object]:
    return [getattr(delta, name) for name in delta.__struct_fields__]


def _encoded(delta: Delta) -> bytes:
    message = state_pb2.StateDelta()
    match delta:
        case ModelState():
            message.model_state.CopyFrom(model_state_message(delta))
        case GpuState():
            message.gpu_state.CopyFrom(gpu_state_message(delta))
        case Heartbeat():
            message.heartbeat.CopyFrom(heartbeat_message(delta))
    return encode_delimited(message.SerializeToString())


def with_length(data: bytes, rng: random.Random) -> bytes:
    """One plain change inside a message, its length prefix made right again: else most changes stop there."""
    decoder = DelimitedDecoder()
    try:
        messages = decoder.feed(data)
    except RemoteProtocolError:
        messages = []
    if not messages:
        return encode_delimited(data[:1000])
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
    return b"".join(encode_delimited(each) for each in messages)


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
    yield _encoded(model)
    yield _encoded(gpu)
    yield _encoded(beat)
    yield _encoded(beat) + _encoded(model) + _encoded(gpu)
    yield encode_delimited(b"") + encode_delimited(b"\x3a\x02\x08\x01")
    yield b"\xff\xff\xff\xff\xff\x01"


TARGET = Target(
    check=check,
    seeds=seeds,
    covers=("wire.proto.delimited", "infermesh.planes.signal.codec"),
    words=_PIECES,
    mutate=with_length,
)
