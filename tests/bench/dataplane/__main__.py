"""The data-plane benchmark: what a router costs in CPU and memory, beside nginx and vllm-router.

`scripts/bench dataplane [--quick] [--json]`. Not an engine benchmark: the backends are fakes that answer at once.
How each row is set up and how to read the figures: docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path

import msgspec

from tests.bench.dataplane import processes, runner
from tests.bench.dataplane.infermesh_rows import INFERMESH
from tests.bench.dataplane.peers import PEERS
from tests.bench.dataplane.report import render, summarise

CONTESTANTS = (*PEERS, *INFERMESH)


def machine() -> dict[str, object]:
    """The facts without which the figures mean nothing."""
    router, load = processes.cores()
    flags = str(sysconfig.get_config_var("CONFIG_ARGS") or "")
    return {
        "cores": len(os.sched_getaffinity(0)),
        "router_core": router,
        "load_core": load,
        "cpu": _cpu_name(),
        "kernel": platform.release(),
        "tcp_congestion_control": Path("/proc/sys/net/ipv4/tcp_congestion_control").read_text("ascii").strip(),
        "python": platform.python_version(),
        "python_optimised": "--enable-optimizations" in flags,
        "load_average_before": round(os.getloadavg()[0], 2),
    }


def _cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    names = ",".join(contestant.name for contestant in CONTESTANTS)
    workloads = ",".join(workload.name for workload in runner.WORKLOADS)
    parser = argparse.ArgumentParser(prog="scripts/bench dataplane", description="What a router costs.")
    parser.add_argument("--quick", action="store_true", help="one short round: does it run, not how fast")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    parser.add_argument("--rounds", type=int, default=3, help="default %(default)s")
    parser.add_argument("--warm-s", type=float, default=1.0, help="before each window; default %(default)s")
    parser.add_argument("--measure-s", type=float, default=2.0, help="each window; default %(default)s")
    parser.add_argument("--routers", default=names, help="default %(default)s")
    parser.add_argument("--workloads", default=workloads, help="default %(default)s")
    cache = Path.home() / ".cache" / "infermesh" / "bench"
    parser.add_argument("--cache", type=Path, default=cache, help="where peers are installed; default %(default)s")
    options = parser.parse_args(arguments)
    if options.quick:
        options.rounds, options.warm_s, options.measure_s = 1, 0.3, 0.5
    for chosen, known in ((options.routers, names), (options.workloads, workloads)):
        if unknown := set(chosen.split(",")) - set(known.split(",")):
            parser.error(f"unknown: {', '.join(sorted(unknown))}; known are {known}")
    return options


def main(arguments: Sequence[str]) -> int:
    options = parse(arguments)
    facts = machine()
    plan = runner.Plan(
        contestants=[contestant for contestant in CONTESTANTS if contestant.name in options.routers.split(",")],
        workloads=[workload for workload in runner.WORKLOADS if workload.name in options.workloads.split(",")],
        rounds=options.rounds,
        warm_s=options.warm_s,
        measure_s=options.measure_s,
        cache=options.cache,
    )
    measured = runner.run(plan, lambda text: print(text, file=sys.stderr))
    table = summarise(measured.samples)
    if options.json:
        document = {
            "machine": facts,
            "versions": measured.versions,
            "skipped": measured.skipped,
            "rounds": plan.rounds,
            "measure_s": plan.measure_s,
            "workloads": {workload.name: workload.unit for workload in plan.workloads},
            "table": msgspec.to_builtins(table),
        }
        print(json.dumps(document))
    else:
        notes = [f"machine: {json.dumps(facts)}", f"versions: {json.dumps(measured.versions)}"]
        notes.append(f"{plan.rounds} interleaved rounds of {plan.measure_s:g} s each")
        notes += [f"SKIPPED {name}: {reason}" for name, reason in measured.skipped.items()]
        print(render(table, {workload.name: workload.unit for workload in plan.workloads}, notes), end="")
    # A peer that cannot run is a pity; a row of our own that cannot is a failure.
    ours_ran = not any(contestant.name in measured.skipped for contestant in INFERMESH)
    return 0 if ours_ran and all(cell.valid for cells in table.values() for cell in cells.values()) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
