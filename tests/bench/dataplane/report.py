"""From the cells of all rounds to medians, minima and ratios; and the table that a person reads.

Pure. A cell with one error in any round makes that row's column invalid: a router that drops work is cheap.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

import msgspec

from tests.bench.dataplane import tick

YARDSTICKS = ("nginx", "nginx-mtls", "vllm-router")
TICK_QUANTILE = 0.99
NOISE_SHARE_MAX = 0.10  # Above this, something else ran on a measured core and the figures are not quiet ones.


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """One cell of one round."""

    cpu_us: float  # Router CPU per request or per event.
    rate_per_s: float
    utilisation: float  # Router CPU seconds per second: 1.0 is a full core.
    rss_mib: float
    latency_p50_ms: float
    latency_p99_ms: float
    foreign: float  # Share of either core that something else used.
    opening_ticks: tick.Counts  # Of infermesh's 50 ms tick; empty for others.
    window_ticks: tick.Counts
    errors: int
    first_error: str


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """One router in one workload, over all rounds."""

    valid: bool
    rounds: int
    cpu_us_median: float
    cpu_us_min: float
    rate_per_s_median: float
    one_core_per_s: float  # What one full core would carry at the median cost.
    utilisation_median: float
    rss_mib_median: float
    latency_p50_ms: float
    latency_p99_ms: float
    foreign_max: float
    tick_slip_p99_ms: float | None  # Over the windows of all rounds; None where there is no tick.
    tick_slip_opening_p99_ms: float | None  # The same for the opening of connections and streams.
    ticks: int  # In the windows.
    first_error: str
    ratio_median: Mapping[str, float]  # Yardstick -> this cell's median CPU over the yardstick's.
    ratio_min: Mapping[str, float]


Samples = Mapping[str, Mapping[str, Sequence[Sample]]]  # router -> workload -> rounds
Table = Mapping[str, Mapping[str, Cell]]


def summarise(samples: Samples) -> Table:
    bare = {
        router: {workload: _cell(rounds) for workload, rounds in workloads.items() if rounds}
        for router, workloads in samples.items()
        if any(workloads.values())
    }
    return {
        router: {workload: _with_ratios(cell, workload, bare) for workload, cell in cells.items()}
        for router, cells in bare.items()
    }


def _cell(rounds: Sequence[Sample]) -> Cell:
    cpu_us = statistics.median(sample.cpu_us for sample in rounds)
    window_ticks = tick.added(sample.window_ticks for sample in rounds)
    return Cell(
        valid=not any(sample.errors for sample in rounds),
        rounds=len(rounds),
        cpu_us_median=cpu_us,
        cpu_us_min=min(sample.cpu_us for sample in rounds),
        rate_per_s_median=statistics.median(sample.rate_per_s for sample in rounds),
        one_core_per_s=1e6 / cpu_us if cpu_us else 0.0,
        utilisation_median=statistics.median(sample.utilisation for sample in rounds),
        rss_mib_median=statistics.median(sample.rss_mib for sample in rounds),
        latency_p50_ms=statistics.median(sample.latency_p50_ms for sample in rounds),
        latency_p99_ms=statistics.median(sample.latency_p99_ms for sample in rounds),
        foreign_max=max(sample.foreign for sample in rounds),
        tick_slip_p99_ms=tick.quantile_bound_ms(window_ticks, TICK_QUANTILE),
        tick_slip_opening_p99_ms=tick.quantile_bound_ms(
            tick.added(sample.opening_ticks for sample in rounds), TICK_QUANTILE
        ),
        ticks=int(window_ticks.get(math.inf, 0.0)),
        first_error=next((sample.first_error for sample in rounds if sample.errors), ""),
        ratio_median={},
        ratio_min={},
    )


def _with_ratios(cell: Cell, workload: str, table: Table) -> Cell:
    medians: dict[str, float] = {}
    minima: dict[str, float] = {}
    for yardstick in YARDSTICKS:
        other = table.get(yardstick, {}).get(workload)
        if other is not None and other.valid and other.cpu_us_median:
            medians[yardstick] = cell.cpu_us_median / other.cpu_us_median
            minima[yardstick] = cell.cpu_us_min / other.cpu_us_min
    return msgspec.structs.replace(cell, ratio_median=medians, ratio_min=minima)


def render(table: Table, workloads: Mapping[str, str], notes: Sequence[str]) -> str:
    """`workloads` maps each workload to the unit of its CPU column: "request" or "chunk"."""
    lines: list[str] = []
    routers = [router for router in table if router != "direct"]
    for yardstick in YARDSTICKS:
        if yardstick not in table:
            continue
        lines += [f"CPU per unit, x {yardstick} in the same run: median (minimum)"]
        lines += _grid(
            ["router", *workloads],
            [[router, *(_ratio(table[router].get(w), yardstick) for w in workloads)] for router in routers],
        )
    lines += ["CPU microseconds per unit: median / minimum"]
    lines += _grid(
        ["router", *(f"{workload} ({unit})" for workload, unit in workloads.items())],
        [[router, *(_cpu(table[router].get(w)) for w in workloads)] for router in routers],
    )
    lines += ["Seen per second, and router core used; in brackets what a full core carries at that cost"]
    lines += _grid(
        ["router", *workloads],
        [[router, *(_rate(cells.get(w)) for w in workloads)] for router, cells in table.items()],
    )
    lines += ["Latency ms p50 / p99: a unary exchange, or a stream's first event"]
    lines += _grid(
        ["router", *workloads],
        [[router, *(_latency(cells.get(w)) for w in workloads)] for router, cells in table.items()],
    )
    lines += ["Resident memory of the router's process tree, MiB"]
    lines += _grid(
        ["router", *workloads],
        [[router, *(_rss(table[router].get(w)) for w in workloads)] for router in routers],
    )
    ticking = [router for router in routers if any(c.tick_slip_p99_ms is not None for c in table[router].values())]
    if ticking:
        lines += [
            "A 50 ms tick in another task slipped by at most this in 99 of 100, ms: in the windows / while opening"
        ]
        lines += _grid(["router", *workloads], [[r, *(_tick(table[r].get(w)) for w in workloads)] for r in ticking])
    lines += notes
    lines += [
        f"INVALID {router} {workload}: {cell.first_error}"
        for router, cells in table.items()
        for workload, cell in cells.items()
        if not cell.valid
    ]
    noisy = max((cell.foreign_max for cells in table.values() for cell in cells.values()), default=0.0)
    if noisy > NOISE_SHARE_MAX:
        lines.append(f"NOISY: other work used up to {noisy:.0%} of a measured core; rerun on a quiet machine.")
    return "\n".join(lines) + "\n"


def _grid(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(line[column]) for line in [head, *rows]) for column in range(len(head))]
    lines = ["  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)) for line in [head, *rows]]
    return [*(line.rstrip() for line in lines), ""]


def _ratio(cell: Cell | None, yardstick: str) -> str:
    if cell is None or yardstick not in cell.ratio_median:
        return "-"
    if not cell.valid:
        return "invalid"
    return f"{cell.ratio_median[yardstick]:.2f} ({cell.ratio_min[yardstick]:.2f})"


def _cpu(cell: Cell | None) -> str:
    return "-" if cell is None else f"{cell.cpu_us_median:.1f} / {cell.cpu_us_min:.1f}"


def _rate(cell: Cell | None) -> str:
    if cell is None:
        return "-"
    if not cell.one_core_per_s:
        return f"{cell.rate_per_s_median:,.0f}"
    return f"{cell.rate_per_s_median:,.0f} {cell.utilisation_median:.0%} [{cell.one_core_per_s:,.0f}]"


def _latency(cell: Cell | None) -> str:
    return "-" if cell is None else f"{cell.latency_p50_ms:.2f} / {cell.latency_p99_ms:.2f}"


def _rss(cell: Cell | None) -> str:
    return "-" if cell is None else f"{cell.rss_mib_median:.1f}"


def _tick(cell: Cell | None) -> str:
    if cell is None or cell.tick_slip_p99_ms is None:
        return "-"
    opening = cell.tick_slip_opening_p99_ms
    return f"{cell.tick_slip_p99_ms:g} / {'-' if opening is None else f'{opening:g}'}"
