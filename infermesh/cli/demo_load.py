"""The requests of a demo: mixed lengths, shared system prompts, and a few clients that leave. Seeded, pure, endless.

Short chats are most of them, a third share a system prompt, a few are long. Arrivals are Poisson: clients do not
wait for each other.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

import msgspec

from infermesh.cli.replay.plan import Arrival
from infermesh.sim.trace import MOONCAKE_BLOCK_TOKENS

# Every so manieth client leaves after a few tokens.
_LEAVES_EVERY = 20
_LEAVES_AT = 9
_LEAVES_AFTER_TOKENS = 3
_APPLICATIONS = 4  # Each has a system prompt of its own.


class LoadOptions(msgspec.Struct, frozen=True, kw_only=True):
    rate_per_s: float
    requests_max: int = 0  # 0: no end.
    span_s_max: float = 0.0  # 0: no end.
    seed: int = 1


def demo_arrivals(options: LoadOptions) -> Iterator[Arrival]:
    rng = random.Random(options.seed)
    at_s, number = 0.0, 0
    while not 0 < options.requests_max <= number:
        at_s += rng.expovariate(options.rate_per_s)
        if 0.0 < options.span_s_max < at_s:
            return
        yield _arrival(number, at_s, rng)
        number += 1


def _arrival(number: int, at_s: float, rng: random.Random) -> Arrival:
    kind = rng.random()
    application = rng.randrange(_APPLICATIONS)
    if kind < 0.6:
        blocks, own_tokens = 0, rng.randint(32, 512)
    elif kind < 0.9:
        blocks, own_tokens = 1, rng.randint(64, 768)
    else:
        blocks, own_tokens = 4, rng.randint(128, 1_536)
    leaves = number % _LEAVES_EVERY == _LEAVES_AT
    return Arrival(
        number=number,
        at_s=at_s,
        prompt_tokens=blocks * MOONCAKE_BLOCK_TOKENS + own_tokens,
        output_tokens=rng.randint(24, 48) if leaves else rng.randint(8, 48),
        block_ids=tuple(application * 16 + block for block in range(blocks)),
        cancel_after_tokens=_LEAVES_AFTER_TOKENS if leaves else 0,
    )
