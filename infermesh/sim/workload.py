"""What clients send in a simulation: the requests of a trace with arrival times and prompts with real bytes.

Prompts are made of bytes so that the router's own hashing is what runs: a block id of the trace becomes a
stretch of text, equal for equal ids. Mooncake's clock ticks every three seconds; within one tick requests are
spread evenly, else each tick would be a burst that no client sent.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence

import msgspec

from infermesh.core.model.names import ModelName
from infermesh.core.model.request import RequestFacts
from infermesh.core.routing.prefix import blocks_of
from infermesh.sim.trace import MOONCAKE_BLOCK_TOKENS, TraceRequest

MODEL = ModelName("simulated")


class SimRequest(msgspec.Struct, frozen=True):
    number: int
    arrival_s: float
    prompt_tokens: int
    output_tokens: int
    engine_blocks: tuple[int, ...]  # Whole blocks of MOONCAKE_BLOCK_TOKENS.
    facts: RequestFacts


def make_workload(
    trace: Sequence[TraceRequest], *, speed: float = 1.0, bytes_per_token: float = 4.4
) -> tuple[SimRequest, ...]:
    """`speed` divides the trace's times: 2.0 sends twice as fast. `bytes_per_token` is what routers must learn."""
    assert speed > 0.0
    arrivals = _spread([request.arrival_s for request in trace])
    return tuple(
        SimRequest(
            number,
            arrival_s / speed,
            request.prompt_tokens,
            request.output_tokens,
            request.block_ids[: request.prompt_tokens // MOONCAKE_BLOCK_TOKENS],
            _facts(number, request, bytes_per_token),
        )
        for number, (arrival_s, request) in enumerate(zip(arrivals, trace, strict=True))
    )


def _spread(arrivals: Sequence[float]) -> list[float]:
    """Requests of one instant spread over the gap to the next instant; times that differ are kept."""
    counts = Counter(arrivals)
    instants = sorted(counts)
    gaps = {now: later - now for now, later in itertools.pairwise(instants)}
    seen: Counter[float] = Counter()
    spread: list[float] = []
    for arrival in arrivals:
        spread.append(arrival + gaps.get(arrival, 0.0) * seen[arrival] / counts[arrival])
        seen[arrival] += 1
    return spread


def _facts(number: int, request: TraceRequest, bytes_per_token: float) -> RequestFacts:
    prompt = _prompt(number, request, bytes_per_token)
    return RequestFacts(
        model=MODEL,
        prompt_bytes=len(prompt),
        output_tokens_max=0,  # Clients seldom say; the router goes by what it measured.
        stream=True,
        blocks=blocks_of(prompt),
    )


def _prompt(number: int, request: TraceRequest, bytes_per_token: float) -> bytes:
    length = max(1, round(request.prompt_tokens * bytes_per_token))
    if not request.block_ids:
        return _text(-1 - number, length)
    block_bytes = round(MOONCAKE_BLOCK_TOKENS * bytes_per_token)
    prompt = b"".join([_text(block_id, block_bytes) for block_id in request.block_ids])[:length]
    # Lengths and ids of the trace may disagree by a few tokens: what is missing is new text.
    return prompt + _text(-1 - number, length - len(prompt))


def _text(identity: int, length: int) -> bytes:
    word = identity.to_bytes(8, "little", signed=True)
    return (word * (length // 8 + 1))[:length]
