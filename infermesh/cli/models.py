"""`mesh models`: what the fleet serves, and on how many nodes."""

from __future__ import annotations

import click
import msgspec

from infermesh.cli.admin_client import admin_option, ask
from infermesh.cli.admin_shapes import ModelsPage
from infermesh.cli.output import UNKNOWN, Column, json_option, make_table, show, show_json

_EXAMPLES = """\b
Examples:
  mesh models
  mesh models --json
"""

_COLUMNS = (
    Column("MODEL"),
    Column("READY", right=True),
    Column("QUEUE", right=True),
    Column("RUNNING", right=True),
    Column("NODES", folds=True),
    Column("NOTE"),
)


@click.command(short_help="Models of the fleet.", epilog=_EXAMPLES)
@admin_option
@json_option
def models(admin: str, *, as_json: bool) -> None:
    """Models that some node serves. READY counts the nodes that requests can be sent to."""
    page, body = ask(admin, "/v1/models", ModelsPage)
    if as_json:
        show_json(msgspec.Raw(body))
        return
    if not page.models:
        show("no model: no node has reported one; `mesh nodes` shows which nodes are heard")
        return
    rows = [
        [
            model.model,
            f"{model.ready} of {len(model.nodes)}",
            f"{model.queue_len:,}",
            f"{model.running:,}",
            ", ".join(model.nodes) or UNKNOWN,
            "emulated" if model.emulated else "",
        ]
        for model in page.models
    ]
    show(make_table(_COLUMNS, rows))
