"""What is seen while a demo runs: a live table on a terminal, a line every few seconds elsewhere.

Shows the demo's own clients beside the edge's view of its targets. Steps of the run (`tell`) are lines above it.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterator

import click
import trio
from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from infermesh.cli.admin_client import AdminConnection
from infermesh.cli.admin_shapes import NodesPage, SummaryPage
from infermesh.cli.exits import CommandFailed
from infermesh.cli.fleet.plan import MODEL, FleetPlan
from infermesh.cli.fleet_table import targets_table
from infermesh.cli.output import console, in_ms
from infermesh.cli.replay.ledger import Ledger, Status
from infermesh.cli.replay.report import spread_of

_TABLE_EVERY_S = 0.5
_LINE_EVERY_S = 2.0
_LATEST = 500  # First tokens that the running figures are of.
_STEPS_SHOWN = 4


class DemoView:
    """`quiet`: stdout is for a JSON document, so all that is told goes to stderr, and no table is shown."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._steps: deque[str] = deque(maxlen=_STEPS_SHOWN)
        self._live: Live | None = None

    def tell(self, step: str) -> None:
        """One step of the run."""
        if self._live is not None:
            self._steps.append(step)
        else:
            click.echo(step, err=self._quiet)

    def greet(self, plan: FleetPlan) -> None:
        """Where everything is, and a command that works."""
        for line in greeting(plan):
            self.tell(line)

    async def watch(self, plan: FleetPlan, ledger: Ledger) -> None:
        """Until cancelled."""
        edge = AdminConnection(plan.edge.admin_url)
        target = console(stderr=self._quiet)
        try:
            if target.is_terminal and not self._quiet:
                with self._lively(Live(console=target, auto_refresh=False, transient=True)) as live:
                    while True:
                        live.update(await self._table(edge, plan, ledger), refresh=True)
                        await trio.sleep(_TABLE_EVERY_S)
            while True:
                await trio.sleep(_LINE_EVERY_S)
                with contextlib.suppress(CommandFailed):
                    self.tell(load_line(ledger, await edge.read("/v1/summary", SummaryPage)))
        finally:
            await edge.aclose()

    @contextlib.contextmanager
    def _lively(self, live: Live) -> Iterator[Live]:
        self._live = live
        try:
            with live:
                yield live
        finally:
            self._live = None

    async def _table(self, edge: AdminConnection, plan: FleetPlan, ledger: Ledger) -> RenderableType:
        try:
            totals = await edge.read("/v1/summary", SummaryPage)
            nodes = await edge.read("/v1/nodes", NodesPage)
        except CommandFailed as failure:
            return Text(failure.message, style="red")
        hedges = totals.hedges
        return Group(
            Text(clients_words(ledger)),
            Text(
                f"hedges fired {hedges.fired:,}  won {hedges.won:,}  lost {hedges.lost:,}  denied {hedges.denied:,}  "
                f"cancelled upstream {totals.cancelled_upstream:,}"
            ),
            "",
            targets_table(nodes, totals),
            "",
            *(Text(step, style="dim") for step in self._steps),
            *greeting(plan),
            Text("Ctrl-C stops everything.", style="bold"),
        )


def clients_words(ledger: Ledger) -> str:
    """What this demo's own clients have seen so far."""
    settled = ledger.settled
    ttft = spread_of([ttft_s * 1e3 for ttft_s in ledger.first_tokens_s[-_LATEST:]])
    return (
        f"requests {ledger.arrived:,}  in flight {ledger.in_flight:,}  completed {settled[Status.COMPLETED]:,}  "
        f"failed {settled[Status.FAILED]:,}  rejected {settled[Status.REJECTED]:,}  "
        f"cancelled {settled[Status.CANCELLED]:,}  TTFT ms p50 {in_ms(ttft.p50)} p99 {in_ms(ttft.p99)}"
    )


def load_line(ledger: Ledger, totals: SummaryPage) -> str:
    chosen = "  ".join(f"{node} {mine.chosen:,}" for node, mine in totals.per_node.items())
    return (
        f"{clients_words(ledger)}  chosen {chosen or '-'}  hedges {totals.hedges.fired:,} ({totals.hedges.won:,} won)  "
        f"cancelled upstream {totals.cancelled_upstream:,}"
    )


def greeting(plan: FleetPlan) -> list[str]:
    """Lines of under 80 columns: a terminal that folded the command would break it for who copies it."""
    engines = ", ".join(f"{gpu.node} ({gpu.profile}{_speed_words(gpu.speed)})" for gpu in plan.gpus)
    return [
        f"engines   emulated: {engines}",
        f"clients   {plan.client_url}/v1 (OpenAI)",
        f"admin     {plan.edge.admin_url}/metrics",
        f"look      mesh nodes --admin {plan.edge.admin_url}",
        f"try       curl --no-buffer {plan.client_url}/v1/completions \\",
        "            -H 'content-type: application/json' \\",
        f'            -d \'{{"model": "{MODEL}", "stream": true, "prompt": "Hello"}}\'',
    ]


def _speed_words(speed: float) -> str:
    return "" if speed == 1.0 else f" x{speed:g}"
