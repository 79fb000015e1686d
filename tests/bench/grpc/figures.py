"""From the samples of all rounds to medians, minima and ratios; and the table that a person reads. Pure.

A cell with one error in any round is invalid: who drops work is cheap. A ratio is of one cell over another of the
same run and the same workload.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

NOISE_SHARE_MAX = 0.10  # Above this, something else ran on the measured core and the figures are not quiet ones.


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """One cell of one round."""

    cpu_us: float  # Of the measured process, per call or per frame.
    rate_per_s: float
    utilisation: float
    rss_mib: float
    mean_ms: float
    foreign: float  # Share of the measured core that something else used.
    errors: int
    first_error: str


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """One row in one workload, over all rounds."""

    valid: bool
    rounds: int
    cpu_us_median: float
    cpu_us_min: float
    rate_per_s_median: float
    utilisation_median: float
    rss_mib_median: float
    mean_ms_median: float
    foreign_max: float
    first_error: str


@dataclass(slots=True)
class Samples:
    """One part of the bench. `units` maps each workload to what its CPU is divided by."""

    part: str
    units: Mapping[str, str]
    versions: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)  # Row -> why.
    rows: dict[str, dict[str, list[Sample]]] = field(default_factory=dict)

    def add(self, row: str, workload: str, sample: Sample) -> None:
        self.rows.setdefault(row, {}).setdefault(workload, []).append(sample)

    def table(self) -> dict[str, dict[str, Cell]]:
        return {
            row: {workload: cell_of(rounds) for workload, rounds in workloads.items()}
            for row, workloads in self.rows.items()
        }


def cell_of(rounds: Sequence[Sample]) -> Cell:
    return Cell(
        valid=not any(sample.errors for sample in rounds),
        rounds=len(rounds),
        cpu_us_median=statistics.median(sample.cpu_us for sample in rounds),
        cpu_us_min=min(sample.cpu_us for sample in rounds),
        rate_per_s_median=statistics.median(sample.rate_per_s for sample in rounds),
        utilisation_median=statistics.median(sample.utilisation for sample in rounds),
        rss_mib_median=statistics.median(sample.rss_mib for sample in rounds),
        mean_ms_median=statistics.median(sample.mean_ms for sample in rounds),
        foreign_max=max(sample.foreign for sample in rounds),
        first_error=next((sample.first_error for sample in rounds if sample.errors), ""),
    )


def ratio(table: Mapping[str, Mapping[str, Cell]], workload: str, ours: str, theirs: str) -> tuple[float, float] | None:
    """CPU of `ours` over `theirs`: of medians and of minima; None where one is missing or invalid."""
    one, other = table.get(ours, {}).get(workload), table.get(theirs, {}).get(workload)
    if one is None or other is None or not (one.valid and other.valid and other.cpu_us_min):
        return None
    return one.cpu_us_median / other.cpu_us_median, one.cpu_us_min / other.cpu_us_min


def render(samples: Samples, pairs: Sequence[tuple[str, str]]) -> str:
    """`pairs`: whose CPU is set against whose."""
    table = samples.table()
    lines = [f"== {samples.part}", "CPU microseconds: median / minimum"]
    head = ["row", *(f"{workload} ({unit})" for workload, unit in samples.units.items())]
    lines += _grid(head, [[row, *(_cpu(cells.get(w)) for w in samples.units)] for row, cells in table.items()])
    lines += ["Seen per second, and core used; in brackets mean ms of a whole call; MiB resident"]
    lines += _grid(head, [[row, *(_rate(cells.get(w)) for w in samples.units)] for row, cells in table.items()])
    if pairs:
        lines += ["CPU ratios of this run: medians (minima)"]
        rows = [[f"{one} / {other}", *(_ratio(table, w, one, other) for w in samples.units)] for one, other in pairs]
        lines += _grid(head, rows)
    lines += [f"version {name}: {version}" for name, version in samples.versions.items() if version]
    lines += [f"SKIPPED {name}: {reason}" for name, reason in samples.skipped.items()]
    lines += [
        f"INVALID {row} {workload}: {cell.first_error or 'nothing came back'}"
        for row, cells in table.items()
        for workload, cell in cells.items()
        if not cell.valid
    ]
    noisy = max((cell.foreign_max for cells in table.values() for cell in cells.values()), default=0.0)
    if noisy > NOISE_SHARE_MAX:
        lines.append(f"NOISY: other work used up to {noisy:.0%} of the measured core; rerun on a quiet machine.")
    return "\n".join(lines) + "\n"


def _grid(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(line[column]) for line in [head, *rows]) for column in range(len(head))]
    lines = ["  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)) for line in [head, *rows]]
    return [*(line.rstrip() for line in lines), ""]


def _cpu(cell: Cell | None) -> str:
    if cell is None:
        return "-"
    return f"{cell.cpu_us_median:.1f} / {cell.cpu_us_min:.1f}" if cell.valid else "invalid"


def _rate(cell: Cell | None) -> str:
    if cell is None:
        return "-"
    return (
        f"{cell.rate_per_s_median:,.0f} {cell.utilisation_median:.0%} "
        f"[{cell.mean_ms_median:.2f} ms] {cell.rss_mib_median:.0f} MiB"
    )


def _ratio(table: Mapping[str, Mapping[str, Cell]], workload: str, ours: str, theirs: str) -> str:
    found = ratio(table, workload, ours, theirs)
    return "-" if found is None else f"{found[0]:.2f} ({found[1]:.2f})"
