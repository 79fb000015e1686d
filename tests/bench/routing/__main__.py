"""What a choice costs: `scripts/bench routing [--json]`. Microseconds of one core, with the limits asked for.

Each policy plans a 10 KB prompt on a fleet of 3 and of 1,000 targets that has been used for a while, beside the
hashing of the prompt, the life of one attempt (dispatched, first byte, finished), and the install of a view. Ratios
are to round robin on 3 targets, measured in the same run. The least of the rounds counts: what is above it is
the machine's.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import sys
import timeit
from collections.abc import Callable

import msgspec

from infermesh.core.model.names import ModelName, NodeId, target_key
from infermesh.core.model.outcome import Verdict
from infermesh.core.model.request import RequestFacts
from infermesh.core.model.state import Lifecycle, ModelState
from infermesh.core.model.targets import RoutingView, Target
from infermesh.core.routing import POLICY_NAMES, Router, RoutingConfig, blocks_of

MODEL = ModelName("m")
ROUNDS = 12
REPEATS = 2_000
LIMITS_US = {"predicted_ms, 3 targets": 15.0, "predicted_ms, 1000 targets": 25.0, "blocks of 10 KB": 15.0}


def fleet(size: int, now: float) -> RoutingView:
    targets = []
    for number in range(size):
        node = NodeId(f"gpu-{number:04}")
        state = ModelState(
            node=node,
            model=MODEL,
            runtime="vllm",
            incarnation=1,
            sequence=1,
            source_time=0.0,
            lifecycle=Lifecycle.READY,
            running=3,
            slots=256,
            kv_usage=0.2,
            kv_capacity_tokens=307_328,
            itl_ms=16.0,
            prompt_tokens_per_s=2000.0,
            generation_tokens_per_s=100.0,
        )
        targets.append(
            Target(key=target_key(node, MODEL), node=node, model=MODEL, state=state, received_at=now, rtt_s=0.001)
        )
    return RoutingView(
        version=1,
        built_at=now,
        nodes={},
        eligible={MODEL: tuple(targets)},
        targets={target.key: target for target in targets},
    )


def prompts() -> list[RequestFacts]:
    rng = random.Random(2)
    return [
        RequestFacts(
            model=MODEL,
            prompt_bytes=10_240,
            output_tokens_max=200,
            stream=True,
            blocks=blocks_of(rng.randbytes(10_240)),
        )
        for _ in range(200)
    ]


def used_router(policy: str, size: int, facts: list[RequestFacts]) -> Router:
    """A router that has sent some hundred requests, with thirty still under way."""
    router = Router(RoutingConfig(policy=policy), random.Random(1))
    router.install(fleet(size, 0.0), 0.0)
    live = []
    for turn, each in enumerate(facts * 3):
        now = 1.0 + turn * 0.01
        live.append(router.dispatched(router.plan(each, now).candidates[0], each, now))
        if len(live) > 30:
            lease = live.pop(0)
            router.first_byte(lease, now)
            router.finished(lease, now + 0.1, Verdict.OK, 100, 2560)
    return router


def least_us(call: Callable[[], object], repeats: int = REPEATS) -> float:
    return min(timeit.repeat(call, number=repeats, repeat=ROUNDS)) / repeats * 1e6


def measure() -> dict[str, float]:
    facts = prompts()
    found: dict[str, float] = {}
    for policy in POLICY_NAMES:
        for size in (3, 1000):
            router = used_router(policy, size, facts)
            turns = itertools.cycle(facts)
            found[f"{policy}, {size} targets"] = least_us(lambda r=router, t=turns: r.plan(next(t), 8.0))  # type: ignore[misc]
    for size, name in ((10_240, "10 KB"), (1 << 20, "1 MB")):
        body = memoryview(random.Random(3).randbytes(size))
        found[f"blocks of {name}"] = least_us(lambda b=body: blocks_of(b), 500)  # type: ignore[misc]
    for size in (3, 1000):
        found[f"life of an attempt, {size} targets"] = least_us(_life(used_router("predicted_ms", size, facts), facts))
    router = used_router("predicted_ms", 1000, facts)
    views = itertools.cycle([fleet(1000, 9.0), fleet(1000, 9.5)])
    found["install, 1000 of 1000 targets new"] = least_us(lambda: router.install(next(views), 10.0), 4)
    same = fleet(1000, 9.0)
    views = itertools.cycle([same, msgspec.structs.replace(same, version=2)])
    found["install, 1000 targets, none new"] = least_us(lambda: router.install(next(views), 10.0), 20)
    return found


def _life(router: Router, facts: list[RequestFacts]) -> Callable[[], None]:
    turns = itertools.cycle(facts)
    candidates = router.plan(facts[0], 8.0).candidates

    def live() -> None:
        each = next(turns)
        lease = router.dispatched(candidates[0], each, 8.0)
        router.first_byte(lease, 8.03)
        router.finished(lease, 8.1, Verdict.OK, 100, 2560)

    return live


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/bench routing", description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    options = parser.parse_args()
    found = measure()
    if options.json:
        print(json.dumps({"us": {name: round(us, 2) for name, us in found.items()}, "limits_us": LIMITS_US}, indent=2))
        return 0
    yardstick = found["round_robin, 3 targets"]
    for name, us in found.items():
        limit = f"  limit {LIMITS_US[name]:g}" if name in LIMITS_US else ""
        print(f"{name:36} {us:9.2f} us  {us / yardstick:6.2f}x{limit}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
