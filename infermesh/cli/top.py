"""`mesh top`: the fleet's targets and the router's totals, again and again.

In a pipe, with `--once` and with `--json` it prints once and ends.
"""

from __future__ import annotations

import sys

import click
import msgspec
import trio
from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from infermesh.cli.admin_client import AdminConnection, admin_option
from infermesh.cli.admin_shapes import NodesPage, SummaryPage
from infermesh.cli.exits import CommandFailed
from infermesh.cli.fleet_table import summary_lines, targets_table
from infermesh.cli.output import console, json_option, rate, show, show_json

_EXAMPLES = """\b
Examples:
  mesh top
  mesh top --interval 0.5
  mesh top --once
  mesh top --json
"""


@click.command(short_help="A live view of the fleet.", epilog=_EXAMPLES)
@click.option(
    "--interval",
    "interval_s",
    type=click.FloatRange(0.1, 3600),
    default=1.0,
    show_default=True,
    metavar="S",
    help="Seconds between two looks.",
)
@click.option("--once", is_flag=True, help="Print once and end.")
@admin_option
@json_option
def top(interval_s: float, admin: str, *, once: bool, as_json: bool) -> None:
    """Targets with their load, and what the asked router has done since its start. Ctrl-C ends it."""
    if as_json:
        trio.run(_print_document, admin)
    elif once or not sys.stdout.isatty():
        trio.run(_print_once, admin)
    else:
        try:
            trio.run(_watch, admin, interval_s)
        except KeyboardInterrupt:
            return


async def _print_document(url: str) -> None:
    connection = AdminConnection(url)
    try:
        totals, nodes = await connection.get("/v1/summary"), await connection.get("/v1/nodes")
    finally:
        await connection.aclose()
    show_json({"summary": msgspec.Raw(totals), "nodes": msgspec.json.decode(nodes)["nodes"]})


async def _print_once(url: str) -> None:
    connection = AdminConnection(url)
    try:
        show(*await _look(connection))
    finally:
        await connection.aclose()


async def _watch(url: str, interval_s: float) -> None:
    connection = AdminConnection(url)
    seen: tuple[SummaryPage, float] | None = None
    try:
        with Live(console=console(), screen=True, auto_refresh=False) as live:
            while True:
                began = trio.current_time()
                try:
                    totals = await connection.read("/v1/summary", SummaryPage)
                    nodes = await connection.read("/v1/nodes", NodesPage)
                except CommandFailed as failure:
                    # A daemon that restarts is why people watch.
                    live.update(Text(failure.message, style="red"), refresh=True)
                else:
                    title = Text(f"{nodes.me or url}   {_pace(seen, totals, began)}   Ctrl-C ends", style="bold")
                    live.update(Group(title, "", *_parts(totals, nodes)), refresh=True)
                    seen = totals, began
                await trio.sleep_until(began + interval_s)
    finally:
        await connection.aclose()


async def _look(connection: AdminConnection) -> list[RenderableType]:
    totals = await connection.read("/v1/summary", SummaryPage)
    return _parts(totals, await connection.read("/v1/nodes", NodesPage))


def _parts(totals: SummaryPage, nodes: NodesPage) -> list[RenderableType]:
    return [*summary_lines(totals), "", targets_table(nodes, totals)]


def _pace(seen: tuple[SummaryPage, float] | None, totals: SummaryPage, now: float) -> str:
    if seen is None or totals.requests < seen[0].requests:  # It was started again in between.
        return ""
    return f"{rate((totals.requests - seen[0].requests) / (now - seen[1]))} requests/s"
