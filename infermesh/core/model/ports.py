"""What a pure core may ask of the world: randomness, handed in at construction."""

from __future__ import annotations

from typing import Protocol


class Rng(Protocol):
    """The part of `random.Random` that cores use. The node seeds it from the OS, the simulator from its seed."""

    def random(self) -> float: ...
    def randrange(self, stop: int, /) -> int: ...
    def expovariate(self, lambd: float) -> float: ...
