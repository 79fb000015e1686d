"""`mesh config`: what a node's config says (`explain`) and whether it can be used (`check`). Talks to no daemon."""

from __future__ import annotations

import json
import os
from pathlib import Path

import click
import msgspec

from infermesh.node.config import ConfigError, load_config
from infermesh.node.config_explain import REQUIRED, Row, explain
from infermesh.node.config_sections import NodeConfig

_FILE = click.option(
    "--config",
    "file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The node's TOML file. Without it: defaults, environment and --set alone.",
)
_SET = click.option(
    "--set",
    "settings",
    metavar="SECTION.KEY=VALUE",
    multiple=True,
    help="Override one key, as the flags of meshd do; may be given several times.",
)
_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")


@click.group(short_help="Explain or check a node's config.")
def config() -> None:
    """Explain or check a node's config: file, then INFERMESH_SECTION__KEY, then --set."""


_EXPLAIN_EXAMPLES = """\b
Examples:
  mesh config explain
  mesh config explain --config node.toml
  mesh config explain --config node.toml --set logs.level=debug --json
"""

_CHECK_EXAMPLES = """\b
Examples:
  mesh config check --config node.toml
  mesh config check --config node.toml --json
"""


@config.command("explain", epilog=_EXPLAIN_EXAMPLES)
@_FILE
@_SET
@_JSON
def explain_command(file: Path | None, settings: tuple[str, ...], *, as_json: bool) -> None:
    """Print every key with its value, unit, default and where the value came from."""
    try:
        # Without a file the name of the node is nobody's yet, and the keys are what is asked for.
        loaded = _load(file, settings, {"node.id": "unnamed"} if file is None else {})
    except ConfigError as error:
        _fail(file, error, as_json=as_json)
        return
    rows = explain(loaded)
    if as_json:
        click.echo(json.dumps({"file": _name(file), "keys": msgspec.to_builtins(rows)}, indent=2))
    else:
        click.echo(_table(rows))


@config.command("check", epilog=_CHECK_EXAMPLES)
@_FILE
@_SET
@_JSON
def check_command(file: Path | None, settings: tuple[str, ...], *, as_json: bool) -> None:
    """Exit 0 when a node could use this config, 1 with every fault otherwise."""
    try:
        loaded = _load(file, settings, {})
    except ConfigError as error:
        _fail(file, error, as_json=as_json)
        return
    if as_json:
        document = {"file": _name(file), "usable": True, "problems": [], "node": loaded.node.id}
        click.echo(json.dumps(document, indent=2))
    else:
        click.echo(f"{_name(file)}: node {loaded.node.id} can use this config")


def parse_settings(settings: tuple[str, ...]) -> dict[str, str]:
    """`section.key=value` texts as the flags that `load_config` takes."""
    flags = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or ("." not in key and key not in ("peers", "runtimes")):
            raise click.BadParameter(f"{setting!r} is not SECTION.KEY=VALUE", param_hint="--set")
        flags[key.strip()] = value
    return flags


def _load(file: Path | None, settings: tuple[str, ...], fallback: dict[str, str]) -> NodeConfig:
    flags = parse_settings(settings)
    if "INFERMESH_NODE__ID" not in os.environ:
        flags = fallback | flags
    return load_config(file, os.environ, flags)


def _fail(file: Path | None, error: ConfigError, *, as_json: bool) -> None:
    if as_json:
        document = {"file": _name(file), "usable": False, "problems": list(error.problems)}
        click.echo(json.dumps(document, indent=2))
    else:
        click.echo(str(error), err=True)
    raise click.exceptions.Exit(1)


def _name(file: Path | None) -> str:
    return "no config file" if file is None else str(file)


# --- Words ---


def _table(rows: list[Row]) -> str:
    """One block per section; a value that somebody set is marked, with who did."""
    lines: list[str] = []
    width = max(len(row.key) for row in rows)
    section = ""
    for row in rows:
        now = row.key.partition(".")[0].partition("[")[0]
        if now != section:
            section = now
            lines += ["", f"[[{section}]]" if "[" in row.key else f"[{section}]"]
        lines.append(_line(row, width))
        allowed = f" Allowed: {row.allowed}." if row.allowed else ""
        lines.append(f"  {'':{width}}   {row.doc}{allowed}")
    return "\n".join(lines[1:])


def _line(row: Row, width: int) -> str:
    unit = f" {row.unit}" if row.unit and row.unit != "host:port" else ""
    mark, origin = " ", "default"
    if row.origin == "not configured":
        return f"  {row.key:{width}} = (none){unit}"
    if row.origin != "default":
        default = REQUIRED if row.default == REQUIRED else f"default {_toml(row.default)}"
        mark, origin = "*", f"{row.origin}; {default}"
    return f"{mark} {row.key:{width}} = {_toml(row.value)}{unit}  [{origin}]"


def _toml(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
