"""What happened to one request: filled in on its way, read by the ledger, the logs and `mesh explain`.

One mutable record per request, owned by its task; after `RequestRecord.ended_at` is set nobody changes it.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Final

from infermesh.core.model.names import ModelName, NodeId
from infermesh.core.model.outcome import Verdict
from infermesh.core.model.request import Priority
from infermesh.core.routing.plan import Plan


class Ending(enum.StrEnum):
    """How a request ended, each exactly once: arrived = the sum of these plus those in flight."""

    COMPLETED = "completed"
    REJECTED = "rejected"  # Refused by admission.
    FAILED = "failed"  # No target answered, or one broke off.
    CANCELLED = "cancelled"  # The client went away.
    INVALID = "invalid"  # The client's own error, found here or by the runtime (4xx).


_NO_MODEL: Final = ModelName("")


@dataclass(slots=True)
class AttemptRecord:
    number: int
    node: NodeId
    hedge: bool
    dispatched_at: float
    verdict: Verdict | None = None  # None: under way.
    first_byte_s: float = 0.0
    total_s: float = 0.0
    detail: str = ""


@dataclass(slots=True)
class RequestRecord:
    request_id: str
    route: str  # "/v1/chat/completions"
    protocol: str  # The writer's: "http/1.1", "http/2", "grpc", "websocket".
    received_at: float
    model: ModelName = _NO_MODEL
    priority: Priority = Priority.DEFAULT
    tenant: str = ""
    trace_id: bytes = b""
    span_id: bytes = b""
    parent_span_id: bytes = b""
    sampled: bool = False
    plan: Plan | None = None
    chosen_at: float = 0.0
    choice_s: float = 0.0
    queue_wait_s: float = 0.0
    first_byte_at: float = 0.0
    ended_at: float = 0.0
    status: int = 0
    ending: Ending | None = None
    reason: str = ""  # Why it was refused or failed: the label it is counted under.
    winner: NodeId | None = None
    runtime: str = ""
    prompt_tokens: int = 0
    output_tokens: int = 0
    attempts: list[AttemptRecord] = field(default_factory=list)
