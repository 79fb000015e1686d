"""The tables of a fleet, made of the admin port's pages: nodes, targets, GPUs and totals.

Used by `mesh nodes`, `mesh gpus`, `mesh top` and `mesh demo`, so that a column looks the same everywhere. An emulated
engine is called so in each of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.table import Table
from rich.text import Text

from infermesh.cli.admin_shapes import NodeRow, NodesPage, SummaryPage, TargetRow
from infermesh.cli.output import (
    UNKNOWN,
    Cell,
    Column,
    coloured,
    in_gib,
    in_ms,
    in_percent,
    in_seconds,
    make_table,
    or_unknown,
    rate,
)

STATE_STYLES = {
    "alive": "green",
    "ready": "green",
    "healthy": "green",
    "joining": "yellow",
    "loading": "yellow",
    "suspect": "yellow",
    "degraded": "yellow",
    "dead": "red",
    "left": "dim",
    "failed": "red",
    "unknown": "dim",
}

_NODE_COLUMNS = (
    Column("NODE"),
    Column("STATE"),
    Column("FOR", right=True, drop=3),
    Column("ROLES", drop=1),
    Column("ZONE", drop=5),
    Column("ADDRESS", drop=2),
    Column("RTT ms", right=True, drop=4),
    Column("RUNTIMES"),
    Column("NOTE", folds=True),
)

_TARGET_COLUMNS = (
    Column("NODE"),
    Column("MODEL", drop=3),
    Column("RUNTIME"),
    Column("STATE", drop=4),
    Column("QUEUE", right=True),
    Column("RUNNING", right=True),
    Column("KV", right=True, drop=1),
    Column("TTFT ms", right=True, drop=2),
    Column("ITL ms", right=True, drop=6),
    Column("TOKENS/s", right=True, drop=8),
    Column("PREFIX HITS", right=True, drop=9),
    Column("AGE", right=True, drop=7),
    Column("IN FLIGHT", right=True),
    Column("NOTE", folds=True),
)

_GPU_COLUMNS = (
    Column("NODE"),
    Column("GPU"),
    Column("NAME", folds=True),
    Column("HEALTH"),
    Column("BUSY", right=True),
    Column("MEMORY GiB", right=True, drop=1),
    Column("TEMPERATURE", right=True, drop=3),
    Column("POWER", right=True, drop=2),
)


def nodes_table(page: NodesPage) -> Table:
    return make_table(_NODE_COLUMNS, [_node_cells(node, me=node.node == page.me) for node in page.nodes])


def targets_table(page: NodesPage, totals: SummaryPage | None = None) -> Table:
    """One row per model and node. With `totals`, also how often each node was chosen."""
    columns = _TARGET_COLUMNS if totals is None else (*_TARGET_COLUMNS[:-1], *_TOTALS_COLUMNS, _TARGET_COLUMNS[-1])
    rows = []
    for node, target in targets_of(page):
        cells = _target_cells(node, target)
        rows.append(cells if totals is None else [*cells[:-1], *_totals_cells(node, totals), cells[-1]])
    return make_table(columns, rows)


_TOTALS_COLUMNS = (Column("CHOSEN", right=True), Column("CANCELLED", right=True, drop=5))


def gpus_table(page: NodesPage) -> Table:
    rows: list[list[Cell]] = []
    for node in page.nodes:
        for gpu in node.gpus:
            rows.append(
                [
                    node.node,
                    gpu.gpu_uuid,
                    gpu.name,
                    coloured(gpu.health, STATE_STYLES),
                    in_percent(gpu.sm_utilization),
                    f"{in_gib(gpu.memory_used_bytes)} of {in_gib(gpu.memory_total_bytes)}",
                    f"{gpu.temperature_c:.0f} C",
                    f"{gpu.power_w:.0f} W",
                ]
            )
    return make_table(_GPU_COLUMNS, rows)


def targets_of(page: NodesPage) -> Iterable[tuple[NodeRow, TargetRow]]:
    return ((node, target) for node in page.nodes for target in node.models)


def replica_name(name: str, replica: int) -> str:
    """The name of a node's second and further runtimes, as target keys have it."""
    return f"{name}#{replica}" if replica else name


def summary_lines(totals: SummaryPage) -> list[Text]:
    """What the router has done since its start, two short lines."""
    ttft, hedges = totals.ttft_ms, totals.hedges
    first = (
        f"requests {totals.requests:,}  in flight {totals.in_flight:,}  completed {totals.completed:,}  "
        f"failed {totals.failed:,}  rejected {totals.rejected:,}  cancelled {totals.cancelled:,}"
    )
    second = (
        f"TTFT ms p50 {in_ms(ttft.p50)}  p90 {in_ms(ttft.p90)}  p99 {in_ms(ttft.p99)}   "
        f"hedges fired {hedges.fired:,}  won {hedges.won:,}  lost {hedges.lost:,}  denied {hedges.denied:,}   "
        f"cancelled upstream {totals.cancelled_upstream:,}"
    )
    return [Text(first), Text(second)]


def _node_cells(node: NodeRow, *, me: bool) -> Sequence[Cell]:
    notes = ["asked"] if me else []
    if node.reason:
        notes.append(node.reason)
    return [
        node.node,
        coloured(node.state, STATE_STYLES),
        in_seconds(node.since_s),
        ", ".join(node.roles) or UNKNOWN,
        node.zone or UNKNOWN,
        node.address or UNKNOWN,
        or_unknown(node.rtt_ms, lambda value: f"{value:.2f}"),
        _runtimes(node),
        "; ".join(notes),
    ]


def _runtimes(node: NodeRow) -> str:
    names = sorted(set(node.runtimes) | {target.runtime for target in node.models if target.runtime})
    if node.emulated and "emulated" not in names:
        names.append("emulated")
    return ", ".join(names) or UNKNOWN


def _target_cells(node: NodeRow, target: TargetRow) -> list[Cell]:
    slots = f"/{target.slots:,}" if target.slots else ""
    return [
        replica_name(node.node, target.replica),
        target.model,
        target.runtime or ("emulated" if node.emulated else UNKNOWN),
        coloured(target.lifecycle, STATE_STYLES),
        f"{target.queue_len:,}",
        f"{target.running:,}{slots}",
        in_percent(target.kv_usage),
        in_ms(target.ttft_ms),
        in_ms(target.itl_ms),
        rate(target.generation_tokens_per_s),
        or_unknown(target.prefix_hit_rate, in_percent),
        in_seconds(target.age_s),
        f"{target.inflight:,}",
        Text(f"not chosen: {target.unavailable}", style="red") if target.unavailable else "",
    ]


def _totals_cells(node: NodeRow, totals: SummaryPage) -> list[Cell]:
    mine = totals.per_node.get(node.node)
    return ["0", "0"] if mine is None else [f"{mine.chosen:,}", f"{mine.cancelled:,}"]
