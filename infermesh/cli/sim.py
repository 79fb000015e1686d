"""`mesh sim`: simulations on virtual time. `mesh sim routing` compares routing policies on a recorded trace.

The simulator and its checks are `infermesh.sim`; here are the options, the file, and the two forms of output.
"""

from __future__ import annotations

import math
from pathlib import Path

import click

from infermesh.cli.exits import CommandFailed
from infermesh.core.routing.router_config import POLICY_NAMES, RoutingConfig
from infermesh.sim.checks import ConservationError
from infermesh.sim.compare import compare_policies
from infermesh.sim.fleet import FleetConfig
from infermesh.sim.node import NodeSpec, make_nodes
from infermesh.sim.report import to_json, to_text
from infermesh.sim.trace import TraceError, TraceRequest, parse_trace
from infermesh.sim.workload import make_workload

_EXAMPLES = """\b
Examples:
  mesh sim routing --trace conversation.jsonl --nodes 1,1,0.5,0.33
  mesh sim routing --trace code.csv --nodes h100,l40s --policies predicted_ms,round_robin --json
"""


@click.group(short_help="Simulate fleets and routing policies.")
def sim() -> None:
    """Simulate fleets on virtual time: the daemon's own code, the same seed, the same bytes."""


def _policies(ctx: click.Context, param: click.Parameter, value: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in value.split(","))
    for name in names:
        if name not in POLICY_NAMES:
            raise click.BadParameter(f"{name!r} is no policy; known are {', '.join(POLICY_NAMES)}", ctx, param)
    return names


def _nodes(ctx: click.Context, param: click.Parameter, value: str) -> tuple[NodeSpec, ...]:
    try:
        return make_nodes(value)
    except ValueError as error:
        raise click.BadParameter(str(error), ctx, param) from error


@sim.command(short_help="Compare policies on a recorded trace.", epilog=_EXAMPLES)
@click.option(
    "--trace",
    "trace_file",
    required=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Azure's layout (.csv) or Mooncake's (.jsonl).",
)
@click.option(
    "--policies",
    callback=_policies,
    default="predicted_ms,weighted_prefix,power_of_two,least_load,round_robin",
    show_default=True,
    help="Policies to compare, in this order.",
)
@click.option(
    "--nodes",
    callback=_nodes,
    default="1,1,0.5,0.33",
    show_default=True,
    metavar="LIST",
    help="One entry per node: a speed, a profile, or PROFILE:SPEED.",
)
@click.option("--routers", type=click.IntRange(1, 64), default=1, show_default=True, help="Routers beside each other.")
@click.option(
    "--speed",
    type=click.FloatRange(0.001, 1000.0),
    default=1.0,
    show_default=True,
    help="How much faster than recorded the requests come.",
)
@click.option(
    "--requests", type=click.IntRange(0), default=0, show_default=True, help="Use the first N only; 0 for all."
)
@click.option("--seed", type=int, default=1, show_default=True, help="Of everything random.")
@click.option(
    "--state-every",
    "state_every_s",
    type=click.FloatRange(0.01, 60.0),
    default=0.5,
    show_default=True,
    help="Seconds between two states of a node.",
)
@click.option("--no-hints", "no_hints", is_flag=True, help="Answers carry no load.")
@click.option(
    "--patience",
    "patience_s",
    type=click.FloatRange(0.0, min_open=True),
    default=math.inf,
    metavar="S",
    help="Clients without a first token leave after S seconds. Left out: never.",
)
@click.option("--ttft-slo-ms", type=click.FloatRange(0.0), default=2_000.0, show_default=True, help="For goodput.")
@click.option("--gap-slo-ms", type=click.FloatRange(0.0), default=100.0, show_default=True, help="For goodput.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def routing(
    trace_file: Path,
    policies: tuple[str, ...],
    nodes: tuple[NodeSpec, ...],
    routers: int,
    speed: float,
    requests: int,
    seed: int,
    state_every_s: float,
    patience_s: float,
    ttft_slo_ms: float,
    gap_slo_ms: float,
    *,
    no_hints: bool,
    as_json: bool,
) -> None:
    """Run the same requests, fleet and seed under several routing policies, and compare.

    Times are milliseconds. `done` is the share of the arrived requests that the percentiles are over.
    """
    trace = _read(trace_file, requests)
    config = FleetConfig(
        nodes=nodes,
        routing=RoutingConfig(),
        routers=routers,
        seed=seed,
        state_every_s=state_every_s,
        hints=not no_hints,
        patience_s=patience_s,
    )
    try:
        reports = compare_policies(
            policies,
            config,
            make_workload(trace, speed=speed),
            ttft_slo_ms=ttft_slo_ms,
            token_gap_slo_ms=gap_slo_ms,
        )
    except ConservationError as error:
        raise CommandFailed(f"the simulation does not add up, so there are no figures: {error}") from error
    click.echo(to_json(reports).decode() if as_json else to_text(reports).rstrip())


def _read(file: Path, requests_max: int) -> tuple[TraceRequest, ...]:
    try:
        with file.open(encoding="utf-8") as lines:
            return parse_trace(lines, name=str(file), requests_max=requests_max)
    except TraceError as error:
        raise CommandFailed(str(error)) from error
    except OSError as error:
        raise CommandFailed(f"{file}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise CommandFailed(f"{file}: not text: {error.reason} at byte {error.start}") from error
