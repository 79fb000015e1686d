"""What a fuzz target is, and how one input is judged.

A target is a function of bytes. It feeds them whole, split at random points and byte by byte, compares the
outcomes, compares them with another implementation where there is one, and raises `Violation` (or whatever the
decoder should not have let out) when its invariant does not hold. It returns a label: which kind of outcome this
was. A label not seen before marks an input worth keeping, as a new branch does.

Everything is a function of the input: the random points come from a generator seeded with the input's own bytes.
"""

from __future__ import annotations

import importlib
import itertools
import pkgutil
import random
import time
import tracemalloc
import zlib
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar, cast

from fuzz import targets

# Every n-th execution runs under tracemalloc, which makes it several times slower.
MEASURED_EVERY = 1024
# CPU time of one input of a few KiB, all its ways of feeding together. Real ones take a millisecond or two; a
# quadratic decoder shows at once.
CPU_S_MAX = 2.0
T = TypeVar("T")


class Violation(AssertionError):
    """The invariant of a target does not hold for this input."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    check: Callable[[bytes], Hashable]
    seeds: Callable[[], Iterable[bytes]]
    covers: tuple[str, ...]  # Modules whose branches are counted.
    words: tuple[bytes, ...] = ()  # What a mutation may write whole: keywords, edge values.
    input_bytes_max: int = 2048
    peak_bytes_max: int = 4 << 20  # Allocated at once while one input is judged, oracles included.
    mutate: Callable[[bytes, random.Random], bytes] | None = None  # Knows the format's structure.


class _TargetModule(Protocol):
    TARGET: Target
    __doc__: str | None


def target_names() -> list[str]:
    return sorted(module.name for module in pkgutil.iter_modules(targets.__path__))


def load_target(name: str) -> Target:
    return _module(name).TARGET


def invariant_of(name: str) -> str:
    """The first line of the target's file."""
    return (_module(name).__doc__ or "").partition("\n")[0]


def _module(name: str) -> _TargetModule:
    return cast(_TargetModule, importlib.import_module(f"fuzz.targets.{name}"))


def judge(target: Target, data: bytes) -> Hashable:
    """Run one input under the bound on CPU time. Whatever is raised is a finding."""
    began = time.process_time()
    label = target.check(data)
    if time.process_time() - began > CPU_S_MAX:
        began = time.process_time()  # Once more: the first time may have paid for imports and caches.
        target.check(data)
        took_s = time.process_time() - began
        if took_s > CPU_S_MAX:
            raise Violation(f"{took_s:.1f} s of CPU time for {len(data)} bytes, at most {CPU_S_MAX} are allowed")
    return label


def judge_measured(target: Target, data: bytes) -> Hashable:
    """The same under the bound on memory, too."""
    target.check(data)  # What is cached for good is not this input's memory.
    tracemalloc.start()
    try:
        label = target.check(data)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    if peak_bytes > target.peak_bytes_max:
        raise Violation(f"{peak_bytes} bytes allocated for {len(data)} of input; allowed: {target.peak_bytes_max}")
    return label


def rng_of(data: bytes) -> random.Random:
    """A generator that is the same for the same input."""
    return random.Random(zlib.crc32(data))


def ways_to_feed(data: bytes) -> list[tuple[str, list[bytes]]]:
    """The input whole, cut at one to seven random points, and byte by byte."""
    rng = rng_of(data)
    cuts = sorted({rng.randrange(len(data) + 1) for _ in range(rng.randint(1, 7))})
    ends = [0, *cuts, len(data)]
    split = [data[start:end] for start, end in itertools.pairwise(ends)]
    return [("whole", [data]), ("split", split), ("byte by byte", [data[i : i + 1] for i in range(len(data))])]


def agreed(data: bytes, run: Callable[[Sequence[bytes]], T]) -> T:
    """The outcome of `run`, which must be equal however the input is cut."""
    (_, whole), *others = ways_to_feed(data)
    expected = run(whole)
    for way, pieces in others:
        seen = run(pieces)
        if seen != expected:
            raise Violation(f"whole: {expected!r}\n{way}: {seen!r}\npieces: {[len(piece) for piece in pieces][:40]}")
    return expected


def demand(holds: object, text: str, *seen: object) -> None:
    if not holds:
        raise Violation(": ".join([text, *map(repr, seen)]))
