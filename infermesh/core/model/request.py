"""What routing needs to know of a request; taken from its head and body once, then never parsed again."""

from __future__ import annotations

import enum
import math

import msgspec

from infermesh.core.model.names import ModelName


class Priority(enum.IntEnum):
    """`x-infermesh-priority`: lower is served first, higher is shed first."""

    SYSTEM = 0
    INTERACTIVE = 1
    DEFAULT = 2
    BULK = 3


class RequestFacts(msgspec.Struct, frozen=True, kw_only=True):
    model: ModelName
    prompt_bytes: int  # Bytes of prompt text; tokens are bytes / measured bytes per token.
    output_tokens_max: int  # The client's cap on output tokens; 0 unknown.
    stream: bool
    blocks: tuple[int, ...]  # Chained hashes of the prompt's leading blocks, longest prefix last.
    priority: Priority = Priority.DEFAULT
    tenant: str = ""
    deadline: float = math.inf  # Monotonic seconds by which the first byte must have come.
    may_hedge: bool = True  # False when the client forbids a second copy.
