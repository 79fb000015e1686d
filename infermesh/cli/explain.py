"""`mesh explain REQUEST_ID`: what was known of each target when a request came, and what became of it."""

from __future__ import annotations

import datetime

import click
import msgspec
from rich.table import Table
from rich.text import Text

from infermesh.cli.admin_client import admin_option, ask, path_of
from infermesh.cli.admin_shapes import AttemptRow, ExplainPage
from infermesh.cli.candidates import LEGEND, candidates_table, excluded_lines
from infermesh.cli.output import UNKNOWN, Cell, Column, in_ms, json_option, make_table, show, show_json

_EXAMPLES = """\b
Examples:
  The id is in the answer's x-infermesh-request-id header; ask the router that answered:
    mesh explain 4bf92f3577b34da6
    mesh explain 4bf92f3577b34da6 --json
"""

_ATTEMPT_COLUMNS = (
    Column("ATTEMPT", right=True),
    Column("NODE"),
    Column("KIND"),
    Column("VERDICT"),
    Column("FIRST BYTE ms", right=True),
    Column("TOTAL ms", right=True),
    Column("DETAIL", folds=True),
)

_VERDICT_STYLES = {"ok": "green", "cancelled": "dim", "client_error": "yellow"}


@click.command(short_help="Why a request went where it went.", epilog=_EXAMPLES)
@click.argument("request_id")
@admin_option
@json_option
def explain(request_id: str, admin: str, *, as_json: bool) -> None:
    """The choice made for a request, and each attempt with its end. A router keeps its latest requests."""
    page, body = ask(admin, path_of("v1", "explain", request_id), ExplainPage)
    if as_json:
        show_json(msgspec.Raw(body))
        return
    show(*(Text(f"{name:<10}  {value}") for name, value in _facts(page)), "")
    if page.candidates:
        show("Candidates at that moment, best first:", candidates_table(page.candidates))
        show(*excluded_lines(page.excluded), LEGEND, "")
    else:
        show(*excluded_lines(page.excluded))
    if page.attempts:
        show("Attempts:", _attempts_table(page.attempts))
    else:
        show("No attempt was made.")


def _facts(page: ExplainPage) -> list[tuple[str, str]]:
    received = datetime.datetime.fromtimestamp(page.received_unix_s, datetime.UTC)
    return [
        ("request", page.request_id),
        *([("asked", f"{page.route} ({page.protocol})")] if page.route else []),
        ("model", page.model),
        ("received", received.strftime("%Y-%m-%d %H:%M:%S.%f")[:-3] + " UTC"),
        ("priority", str(page.priority)),
        ("policy", page.policy),
        ("waited", f"{page.queue_wait_ms:.1f} ms for a slot of the fleet" if page.queue_wait_ms else "not at all"),
        ("status", str(page.status) if page.status else "under way"),
        *([("ending", f"{page.ending}: {page.reason}" if page.reason else page.ending)] if page.ending else []),
    ]


def _attempts_table(attempts: list[AttemptRow]) -> Table:
    rows: list[list[Cell]] = []
    for attempt in attempts:
        verdict = attempt.verdict or "under way"
        rows.append(
            [
                str(attempt.attempt + 1),
                attempt.node,
                "hedge" if attempt.hedge else "first" if attempt.attempt == 0 else "retry",
                Text(verdict, style=_VERDICT_STYLES.get(verdict, "red" if attempt.verdict else "")),
                UNKNOWN if attempt.first_byte_ms is None else in_ms(attempt.first_byte_ms),
                UNKNOWN if attempt.total_ms is None else in_ms(attempt.total_ms),
                attempt.detail,
            ]
        )
    return make_table(_ATTEMPT_COLUMNS, rows)
