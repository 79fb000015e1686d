"""The table of candidates with their predicted milliseconds: what `mesh score` and `mesh explain` show of a choice."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from infermesh.cli.admin_shapes import CandidateRow, ExcludedRow
from infermesh.cli.fleet_table import replica_name
from infermesh.cli.output import Cell, Column, in_ms, in_seconds, make_table, signed_ms

_COLUMNS = (
    Column("NODE"),
    Column("SCORE", right=True),
    Column("RANGE", right=True, drop=3),
    Column("TTFT", right=True),
    Column("TOTAL", right=True),
    Column("NETWORK", right=True),
    Column("QUEUE", right=True),
    Column("PREFILL", right=True),
    Column("DECODE", right=True),
    Column("PENALTY", right=True),
    Column("LEARNT", right=True, drop=2),
    Column("IN FLIGHT", right=True, drop=1),
    Column("AGE", right=True, drop=4),
)

LEGEND = (
    "Milliseconds. TTFT = NETWORK + QUEUE + PREFILL, TOTAL = TTFT + DECODE; the least SCORE is best, RANGE is how\n"
    "sure it is. LEARNT: factor on the prediction, from what came. IN FLIGHT: of this router. AGE: of the signal."
)


def candidates_table(candidates: Sequence[CandidateRow]) -> Table:
    """Best first, as the daemon ordered them."""
    rows: list[list[Cell]] = []
    for place, candidate in enumerate(candidates):
        parts = candidate.breakdown
        name = replica_name(candidate.node, candidate.replica)
        rows.append(
            [
                Text(name, style="" if place else "green"),
                in_ms(candidate.score_ms),
                f"{in_ms(candidate.low_ms)}..{in_ms(candidate.high_ms)}",
                in_ms(candidate.ttft_ms),
                in_ms(candidate.total_ms),
                signed_ms(parts.network_ms),
                signed_ms(parts.queue_ms),
                signed_ms(parts.prefill_ms),
                signed_ms(parts.decode_ms),
                signed_ms(parts.penalty_ms),
                f"x{candidate.correction:.2f}",
                f"{candidate.own_inflight:,}",
                in_seconds(candidate.signal_age_s),
            ]
        )
    return make_table(_COLUMNS, rows)


def excluded_lines(excluded: Sequence[ExcludedRow]) -> list[Text]:
    return [
        Text(f"not chosen: {replica_name(row.node, row.replica)}: {row.reason or 'no reason given'}", style="yellow")
        for row in excluded
    ]
