"""What a frozen value costs: `scripts/bench values [--json]`. The figures behind docs/decisions/0001.

Builds, compares and reads the same record as a frozen slotted dataclass (what STYLE 4 asks for), a
`msgspec.Struct(frozen=True)`, a named tuple and a plain slotted class, interleaved, and prints the medians and
their ratios to the dataclass.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import timeit
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import msgspec

ROUNDS = 15
REPEATS = 20_000


class Record(Protocol):
    """Eight fields, as a prediction has them."""

    @property
    def total_ms(self) -> float: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class AsDataclass:
    target: str
    ttft_ms: float
    total_ms: float
    network_ms: float
    queue_ms: float
    prefill_ms: float
    decode_ms: float
    penalty_ms: float


class AsStruct(msgspec.Struct, frozen=True, kw_only=True):
    target: str
    ttft_ms: float
    total_ms: float
    network_ms: float
    queue_ms: float
    prefill_ms: float
    decode_ms: float
    penalty_ms: float


class AsTuple(NamedTuple):
    target: str
    ttft_ms: float
    total_ms: float
    network_ms: float
    queue_ms: float
    prefill_ms: float
    decode_ms: float
    penalty_ms: float


@dataclass(slots=True, kw_only=True)
class AsMutable:
    target: str
    ttft_ms: float
    total_ms: float
    network_ms: float
    queue_ms: float
    prefill_ms: float
    decode_ms: float
    penalty_ms: float


def build(kind: Callable[..., Record]) -> Record:
    return kind(
        target="gpu-a/llama",
        ttft_ms=81.5,
        total_ms=912.0,
        network_ms=0.4,
        queue_ms=12.0,
        prefill_ms=69.1,
        decode_ms=830.5,
        penalty_ms=0.0,
    )


KINDS: dict[str, Callable[..., Record]] = {
    "frozen dataclass, slots": AsDataclass,
    "msgspec.Struct, frozen": AsStruct,
    "NamedTuple": AsTuple,
    "dataclass, slots, not frozen": AsMutable,
}


OPERATIONS = {"build": "build(kind)", "compare": "one == other", "read": "one.total_ms"}


def measure() -> dict[str, dict[str, float]]:
    """Nanoseconds by kind and operation; kinds alternate inside each round, so that all meet the same machine."""
    samples: dict[tuple[str, str], list[float]] = {(name, op): [] for name in KINDS for op in OPERATIONS}
    for _ in range(ROUNDS):
        for name, kind in KINDS.items():
            names = {"build": build, "kind": kind, "one": build(kind), "other": build(kind)}
            for op, statement in OPERATIONS.items():
                seconds = timeit.timeit(statement, number=REPEATS, globals=names)
                samples[name, op].append(seconds / REPEATS * 1e9)
    medians = {key: round(statistics.median(values), 1) for key, values in samples.items()}
    return {name: {op: medians[name, op] for op in OPERATIONS} for name in KINDS}


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/bench values", description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    options = parser.parse_args()
    figures = measure()
    if options.json:
        print(json.dumps({"unit": "ns", "python": sys.version.split()[0], "figures": figures}))
        return 0
    base = figures["frozen dataclass, slots"]
    print(f"Python {sys.version.split()[0]}, msgspec {msgspec.__version__}; ns, and x of the frozen dataclass")
    for name, row in figures.items():
        cells = "".join(f"  {op} {ns:7.1f} ({ns / base[op]:.2f}x)" for op, ns in row.items())
        print(f"{name:30}{cells}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
