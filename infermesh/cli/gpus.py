"""`mesh gpus`: the GPUs that nodes report, with their health and load."""

from __future__ import annotations

import click
import msgspec

from infermesh.cli.admin_client import admin_option, ask
from infermesh.cli.admin_shapes import NodesPage
from infermesh.cli.fleet_table import gpus_table
from infermesh.cli.output import json_option, show, show_json

_EXAMPLES = """\b
Examples:
  mesh gpus
  mesh gpus --json
"""


class _RawNode(msgspec.Struct):
    node: str
    gpus: list[dict[str, object]] = []


class _RawPage(msgspec.Struct):
    nodes: list[_RawNode]


@click.command(short_help="GPUs, their health and load.", epilog=_EXAMPLES)
@admin_option
@json_option
def gpus(admin: str, *, as_json: bool) -> None:
    """GPUs as their nodes report them. Health that cannot be read is unknown, never healthy.

    A node without a driver reports no GPU, and an emulated engine has none.
    """
    page, body = ask(admin, "/v1/nodes", NodesPage)
    if as_json:
        raw = msgspec.json.decode(body, type=_RawPage)
        show_json({"gpus": [{"node": node.node, **gpu} for node in raw.nodes for gpu in node.gpus]})
        return
    if any(node.gpus for node in page.nodes):
        show(gpus_table(page))
        return
    emulated = [node.node for node in page.nodes if node.emulated]
    why = f"; emulated engines run on {', '.join(emulated)}" if emulated else ""
    show(f"no GPU: no node reports one{why}")
