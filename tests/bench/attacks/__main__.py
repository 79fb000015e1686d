"""The attack benchmark: what each flood of HTTP/2 frames costs a node, and its other clients.

`scripts/bench attacks [--seconds S] [--connections N] [--only WORDS]`. A process of its own plays one attack at a time
against the client port of a running meshd (plain text), on N connections that begin again whenever they are cut;
meanwhile a bystander asks for `/v1/models` every 5 ms on a connection of its own. The row `nobody` is the bystander
alone; `honest clients` are as many connections that ask for the same as fast as they are answered: what a node cannot
but serve. An attack that is worse for the bystander than they are is a finding.

Attacker, bystander and node share the machine: on two cores the attacker's own share is in every wait.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import trio

from tests.bench.attacks.attacker import HONEST
from tests.bench.attacks.report import Row, render
from tests.conformance.attacks.floods import FLOODS
from tests.conformance.attacks.victim import Victim, bystanders
from tests.conformance.nodes import running_nodes


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench attacks", description="What floods of HTTP/2 frames cost.")
    parser.add_argument("--seconds", type=float, default=3.0, help="each attack; default %(default)s")
    parser.add_argument("--connections", type=int, default=4, help="at once; default %(default)s")
    parser.add_argument("--only", default="", help="attacks whose name holds this")
    return parser.parse_args(arguments)


async def row_of(victim: Victim, name: str, flood: int | None, options: argparse.Namespace) -> Row:
    """`flood`: its place in the list, HONEST, or None: nobody attacks."""
    seconds = float(options.seconds)
    async with bystanders(victim.port) as (bystander,):
        victim.reset_peak()
        memory, cpu = victim.rss_bytes(), victim.cpu_s()
        bystander.waits_s.clear()
        began = time.perf_counter()
        if flood is None:
            await trio.sleep(seconds)
            said = {"connections": 0, "frames": 0}
        else:
            module = [sys.executable, "-m", "tests.bench.attacks.attacker"]
            figures = [str(victim.port.number), str(flood), str(seconds), str(options.connections)]
            done = await trio.run_process([*module, *figures], capture_stdout=True)
            said = json.loads(done.stdout)
        took = time.perf_counter() - began
        return Row(
            name=name,
            seconds=took if flood is None else seconds,
            connections=said["connections"],
            frames=said["frames"],
            cpu_s=victim.cpu_s() - cpu,
            grown_bytes=victim.peak_bytes() - memory,
            waits_s=list(bystander.waits_s),
        )


async def measure(options: argparse.Namespace, victim: Victim) -> list[Row]:
    rows = [
        await row_of(victim, "nobody", None, options),
        await row_of(victim, "honest clients", HONEST, options),
    ]
    for number, flood in enumerate(FLOODS):
        if options.only in flood.name:
            rows.append(await row_of(victim, flood.name, number, options))
            print(f"measured {flood.name}", file=sys.stderr)
    return rows


def main(arguments: Sequence[str]) -> int:
    options = parse(arguments)
    with tempfile.TemporaryDirectory(prefix="attacks-") as folder, running_nodes(Path(folder)) as nodes:
        rows = trio.run(measure, options, Victim(nodes.fleet.router, nodes.port("client-h2c")))
    print(render(rows))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except subprocess.CalledProcessError as error:
        sys.exit(f"the attacker failed: {error}")
