"""Read of a request's body what choice needs, once, without building its prompt in Python.

The prompt stays the JSON text it is: its length estimates its tokens and its leading blocks are hashed for
prefix affinity. A conversation that grows repeats its earlier messages byte for byte, so equal prefixes of the
text are equal prefixes of the prompt, whatever the tokenizer.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

import msgspec

from infermesh.core.model.names import ModelName
from infermesh.core.model.request import Priority, RequestFacts
from infermesh.planes.data.errors import RequestRefused
from wire.http1 import RequestHead

MODEL_CHARS_MAX: Final = 256
TENANT_CHARS_MAX: Final = 128
DEADLINE_MS_MAX: Final = 24 * 3600 * 1000.0
# JSON knows no largest number, and arithmetic with floats does. More than any context holds.
_OUTPUT_TOKENS_MAX: Final = 1 << 31

_PRIORITIES: Final = {priority.name.lower().encode(): priority for priority in Priority}
_NOTHING: Final = msgspec.Raw(b"")


class _Body(msgspec.Struct):
    model: str
    stream: bool | None = False
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    messages: msgspec.Raw = _NOTHING
    prompt: msgspec.Raw = _NOTHING
    input: msgspec.Raw = _NOTHING


_decode: Final = msgspec.json.Decoder(_Body).decode


class Hints(msgspec.Struct, frozen=True):
    """What the head says about urgency."""

    priority: Priority
    deadline_s: float  # From arrival to the first byte; inf when the client gave none.
    tenant: str
    may_hedge: bool


def read_facts(
    body: bytes, hints: Hints, received_at: float, blocks_of: Callable[[bytes | memoryview], tuple[int, ...]]
) -> RequestFacts:
    """The facts of an OpenAI-style request. Raises RequestRefused (400) with the field that is wrong."""
    try:
        peeked = _decode(body)
    except msgspec.ValidationError as error:
        raise RequestRefused(400, "invalid_body", f"request body: {error}", param=_field_of(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RequestRefused(400, "invalid_json", f"the request body is not valid JSON: {error}") from error
    if not peeked.model or len(peeked.model) > MODEL_CHARS_MAX:
        text = f"'model' must be a name of 1 to {MODEL_CHARS_MAX} characters"
        raise RequestRefused(400, "invalid_model", text, param="model")
    prompt = memoryview(peeked.messages or peeked.prompt or peeked.input)
    output_max = peeked.max_completion_tokens or peeked.max_tokens or 0
    return RequestFacts(
        model=ModelName(peeked.model),
        prompt_bytes=len(prompt),
        output_tokens_max=min(max(0, output_max), _OUTPUT_TOKENS_MAX),
        stream=bool(peeked.stream),
        blocks=blocks_of(prompt),
        priority=hints.priority,
        tenant=hints.tenant,
        deadline=received_at + hints.deadline_s,
        may_hedge=hints.may_hedge,
    )


def model_facts(
    model: ModelName, hints: Hints, received_at: float, *, prompt_bytes: int = 0, stream: bool = False
) -> RequestFacts:
    """The facts of a request whose model is known and whose body is not read (tensors, gRPC)."""
    return RequestFacts(
        model=model,
        prompt_bytes=prompt_bytes,
        output_tokens_max=0,
        stream=stream,
        blocks=(),
        priority=hints.priority,
        tenant=hints.tenant,
        deadline=received_at + hints.deadline_s,
        may_hedge=hints.may_hedge,
    )


def read_hints(head: RequestHead, deadline_s: float = math.inf) -> Hints:
    """The `x-infermesh-*` request fields; `deadline_s` where the client states none.

    Raises RequestRefused (400) for a value that is not allowed.
    """
    priority, tenant, may_hedge = Priority.DEFAULT, "", True
    for name, value in head.fields:
        if not name.startswith(b"x-infermesh-"):
            continue
        match name:
            case b"x-infermesh-priority":
                priority = _priority(value)
            case b"x-infermesh-deadline-ms":
                deadline_s = _deadline_s(value)
            case b"x-infermesh-tenant":
                tenant = value.decode("latin-1")[:TENANT_CHARS_MAX]
            case b"x-infermesh-hedge":
                may_hedge = value.strip().lower() != b"never"
            case _:
                pass
    return Hints(priority, deadline_s, tenant, may_hedge)


def _priority(value: bytes) -> Priority:
    found = _PRIORITIES.get(value.strip().lower())
    if found is None:
        allowed = ", ".join(name.decode() for name in _PRIORITIES)
        text = f"x-infermesh-priority is {value[:40].decode('latin-1')!r}; allowed: {allowed}"
        raise RequestRefused(400, "invalid_priority", text, param="x-infermesh-priority")
    return found


def _deadline_s(value: bytes) -> float:
    try:
        deadline_ms = float(value)
    except ValueError:
        deadline_ms = -1.0
    if not 0 < deadline_ms <= DEADLINE_MS_MAX:
        shown = value[:40].decode("latin-1")
        text = f"x-infermesh-deadline-ms is {shown!r}; it must be a number of milliseconds above 0, up to a day"
        raise RequestRefused(400, "invalid_deadline", text, param="x-infermesh-deadline-ms")
    return deadline_ms / 1000.0


def _field_of(error: msgspec.ValidationError) -> str | None:
    """The name in msgspec's "... - at `$.model`" or "missing required field `model`"."""
    text = str(error)
    parts = text.rsplit("`", 2)
    named = "required field" in text or "`$." in text
    return parts[1].removeprefix("$.") if named and len(parts) == 3 else None
