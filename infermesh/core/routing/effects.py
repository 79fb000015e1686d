"""What a routing core asks its driver to do. Values only; equality is the test language.

Two families. A `Race` answers with `Dispatch`, `Cancel` and `Settle`, about the attempts of one request.
`Admission` answers with `Admit` and `Refuse`, about the tickets of many requests; waiting needs no effect. A
list of effects is obeyed in its order. An effect names the attempt or the ticket that it is about, which need
not be the one that the driver was just speaking of.
"""

from __future__ import annotations

import enum
from typing import Generic, TypeVar

import msgspec

T = TypeVar("T")


class Dispatch(msgspec.Struct, Generic[T], frozen=True):
    attempt: int
    target: T


class Cancel(msgspec.Struct, frozen=True):
    attempt: int


class Settle(msgspec.Struct, frozen=True):
    winner: int | None  # None: every target failed.


Effect = Dispatch[T] | Cancel | Settle


class RefusalReason(enum.StrEnum):
    """Why a request is not let in. NO_CAPACITY is the fleet's fault (503); the others say "busy" (429)."""

    QUEUE_FULL = "queue_full"  # The queue is full, by its length or by the time that it would take.
    DEADLINE = "deadline"  # It would start too late to send its first byte in time.
    SHED = "shed"  # It waited, and gave its place to a more urgent class or to a smaller tenant.
    NO_CAPACITY = "no_capacity"  # No target of the model may be chosen, and none came back in time.
    EXPIRED = "expired"  # It waited until it could no longer start in time.


class Admit(msgspec.Struct, frozen=True, gc=False):
    ticket: int


class Refuse(msgspec.Struct, frozen=True, gc=False):
    ticket: int
    reason: RefusalReason
    retry_after_s: float  # Within the configured bounds; a header holds it rounded up to whole seconds.


AdmissionEffect = Admit | Refuse
