"""The attack benchmark's figures: one row for each attack, and the table of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

_HEAD: Final = (
    f"{'attack':46} {'cut/s':>7} {'frames/s':>9} {'CPU us/frame':>12} {'CPU ms/cut':>10} {'core':>5} "
    f"{'+MiB':>6} {'p50 ms':>7} {'p99 ms':>7} {'max ms':>7} {'p99 / quiet':>11}"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Of one attack that was played for `seconds`. `waits_s`: of the bystander's answers meanwhile."""

    name: str
    seconds: float
    connections: int
    frames: int
    cpu_s: float
    grown_bytes: int
    waits_s: Sequence[float]

    def p(self, share: float) -> float:
        """Seconds; the largest wait of that share of them."""
        ordered = sorted(self.waits_s)
        return ordered[min(len(ordered) - 1, math.ceil(share * len(ordered)) - 1)] if ordered else math.nan


def render(rows: Sequence[Row]) -> str:
    """The first row is the node without anybody else: what the others' p99 is compared with."""
    quiet = rows[0].p(0.99)
    return "\n".join([_HEAD, *(_line(row, quiet) for row in rows)])


def _line(row: Row, quiet_s: float) -> str:
    per_frame = f"{row.cpu_s / row.frames * 1e6:.1f}" if row.frames else "-"
    per_cut = f"{row.cpu_s / row.connections * 1e3:.1f}" if row.connections else "-"
    return (
        f"{row.name:46} {row.connections / row.seconds:7.0f} {row.frames / row.seconds:9.0f} {per_frame:>12} "
        f"{per_cut:>10} {row.cpu_s / row.seconds:5.0%} {row.grown_bytes / 2**20:6.1f} {row.p(0.5) * 1e3:7.1f} "
        f"{row.p(0.99) * 1e3:7.1f} {row.p(1.0) * 1e3:7.1f} {row.p(0.99) / quiet_s:11.1f}"
    )
