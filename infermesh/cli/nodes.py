"""`mesh nodes`: the nodes that a daemon knows, and what each of them serves."""

from __future__ import annotations

import click
import msgspec
from rich.console import RenderableType

from infermesh.cli.admin_client import admin_option, ask
from infermesh.cli.admin_shapes import NodesPage
from infermesh.cli.fleet_table import nodes_table, targets_of, targets_table
from infermesh.cli.output import json_option, show, show_json

_EXAMPLES = """\b
Examples:
  mesh nodes
  mesh nodes --admin http://10.0.0.5:9090
  mesh nodes --json
"""


@click.command(short_help="Nodes, their state, and what they serve.", epilog=_EXAMPLES)
@admin_option
@json_option
def nodes(admin: str, *, as_json: bool) -> None:
    """Nodes of the mesh as the asked daemon sees them, then one line per model and node.

    AGE is how old the figures are, IN FLIGHT what the asked router itself has under way there. A target that
    requests are not sent to says why.
    """
    page, body = ask(admin, "/v1/nodes", NodesPage)
    if as_json:
        show_json(msgspec.Raw(body))
        return
    parts: list[RenderableType] = [nodes_table(page)]
    if any(True for _ in targets_of(page)):
        parts += ["", targets_table(page)]
    show(*parts)
