"""The arrivals of a replay: when each request goes out and how large it is. Values only, made before the start.

Mooncake's clock ticks every three seconds. Requests of one tick are spread evenly up to the next, else each tick
would be a burst that no client sent; Azure's times are used as they are.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence

import msgspec

from infermesh.sim.trace import TraceRequest


class Arrival(msgspec.Struct, frozen=True, kw_only=True):
    """One request to send. Token figures are those of the trace; prompts are scaled where they are written."""

    number: int  # From 0, in the order of arrival.
    at_s: float  # From the start of the replay.
    prompt_tokens: int
    output_tokens: int
    block_ids: tuple[int, ...] = ()  # Equal ids become equal text; () is text that no other request has.
    cancel_after_tokens: int = 0  # The client leaves after so many tokens; 0: it stays.


class PlanOptions(msgspec.Struct, frozen=True, kw_only=True):
    speed: float = 1.0  # Divides the trace's times.
    requests_max: int = 0  # 0: all.
    span_s_max: float = 0.0  # Arrivals after so many seconds of the replay are left out; 0: none is.
    output_tokens_max: int = 0  # Longer answers are asked for as this long; 0: as in the trace.

    def __post_init__(self) -> None:
        assert self.speed > 0.0


def plan_arrivals(trace: Sequence[TraceRequest], options: PlanOptions) -> tuple[Arrival, ...]:
    """The trace's requests as arrivals, in order of time."""
    output_max = options.output_tokens_max
    times = [at_s / options.speed for at_s in spread([request.arrival_s for request in trace])]
    arrivals = []
    for number, (at_s, request) in enumerate(zip(times, trace, strict=True)):
        if options.span_s_max and at_s > options.span_s_max:
            break
        if number == options.requests_max > 0:
            break
        arrivals.append(
            Arrival(
                number=number,
                at_s=at_s,
                prompt_tokens=request.prompt_tokens,
                output_tokens=min(request.output_tokens, output_max) if output_max else request.output_tokens,
                block_ids=request.block_ids,
            )
        )
    return tuple(arrivals)


def spread(times: Sequence[float]) -> list[float]:
    """Rising times of which those that are equal are spread over the gap to the next that differs.

    The last ones have no next; they get the gap before them.
    """
    counts = Counter(times)
    instants = sorted(counts)
    gaps = {now: later - now for now, later in itertools.pairwise(instants)}
    last_gap = gaps[instants[-2]] if len(instants) > 1 else 0.0
    seen: Counter[float] = Counter()
    result = []
    for time in times:
        result.append(time + gaps.get(time, last_gap) * seen[time] / counts[time])
        seen[time] += 1
    return result
