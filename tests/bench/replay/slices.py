"""Which requests of a trace are replayed, and how fast, so that they are a stated load of a stated fleet. Pure.

The load is offered prompt work over what the fleet can compute: tokens that no shared prefix could save, a second,
over the tokens a second of all engines with every step full. Outputs are not in it: they ride along in the steps.
1.0 is more than any fleet carries with a wait that anybody would bear.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from infermesh.cli.replay.plan import Arrival, PlanOptions, plan_arrivals
from infermesh.sim.node import NodeSpec
from infermesh.sim.trace import MOONCAKE_BLOCK_TOKENS, TraceRequest


class Slice(msgspec.Struct, frozen=True, kw_only=True):
    """One stretch of a trace with its clock set. `next_request` is where the stretch after it begins."""

    trace: str
    first_request: int
    next_request: int
    arrivals: tuple[Arrival, ...]
    load: float
    trace_speed: float  # The trace's times are divided by it.
    span_s: float  # Until the last arrival.
    new_tokens: int  # Prompt tokens that nobody in the slice has sent before.
    prompt_tokens: int
    output_tokens: int


class SliceOptions(msgspec.Struct, frozen=True, kw_only=True):
    load: float
    seconds: float
    output_tokens_max: int  # 0: as recorded.

    def __post_init__(self) -> None:
        assert self.load > 0.0
        assert self.seconds > 0.0


def prompt_tokens_per_s(nodes: Sequence[NodeSpec]) -> float:
    """What the fleet computes with every step full of prompt."""
    total = 0.0
    for node in nodes:
        profile = node.profile.at_speed(node.speed)
        total += profile.batch_tokens_max / profile.step_ms(1, profile.batch_tokens_max) * 1e3
    return total


def cut(name: str, trace: Sequence[TraceRequest], first: int, capacity: float, options: SliceOptions) -> Slice:
    """The requests from `first` on that make `options.seconds` of that load; fewer where the trace ends before.

    Where nothing is left from `first` on, it begins at the trace's start.
    """
    assert trace
    first = first if first < len(trace) - 1 else 0
    wanted = options.load * capacity * options.seconds
    seen: set[int] = set()
    work = end = 0
    for end, request in enumerate(trace[first:], start=first + 1):  # noqa: B007 - read after the loop.
        work += new_tokens(request, seen)
        if work >= wanted:
            break
    requests = trace[first:end]
    span_s = work / (options.load * capacity)
    began, recorded_s = requests[0].arrival_s, requests[-1].arrival_s - requests[0].arrival_s
    moved = [msgspec.structs.replace(request, arrival_s=request.arrival_s - began) for request in requests]
    speed = recorded_s / span_s if recorded_s else 1.0
    arrivals = plan_arrivals(moved, PlanOptions(speed=speed, output_tokens_max=options.output_tokens_max))
    return Slice(
        trace=name,
        first_request=first,
        next_request=end,
        arrivals=arrivals,
        load=options.load,
        trace_speed=speed,
        span_s=span_s,
        new_tokens=work,
        prompt_tokens=sum(arrival.prompt_tokens for arrival in arrivals),
        output_tokens=sum(arrival.output_tokens for arrival in arrivals),
    )


def new_tokens(request: TraceRequest, seen: set[int]) -> int:
    """Prompt tokens past the longest prefix in `seen`, one at least; its blocks are added."""
    known = 0
    for block in request.block_ids:
        if block not in seen:
            break
        known += 1
    seen.update(request.block_ids)
    return max(1, request.prompt_tokens - known * MOONCAKE_BLOCK_TOKENS)


def as_trace(piece: Slice) -> tuple[TraceRequest, ...]:
    """The slice as a trace of its own, for the simulator."""
    return tuple(
        TraceRequest(arrival.at_s, arrival.prompt_tokens, arrival.output_tokens, arrival.block_ids)
        for arrival in piece.arrivals
    )
