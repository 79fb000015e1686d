"""The gRPC benchmark: what a call costs passed through and answered, beside Envoy, grpclib, grpcio and hypercorn.

`scripts/bench grpc [--quick] [--json] [--parts passthrough,servers,h2c]`. What each part measures: passthrough.py and
servers.py beside this file. Figures compare rows of one run.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from tests.bench.dataplane.__main__ import machine
from tests.bench.grpc import passthrough, proxies, servers
from tests.bench.grpc.figures import Samples, render

PARTS = ("passthrough", "servers", "h2c")


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench grpc", description="What a gRPC call costs.")
    parser.add_argument("--quick", action="store_true", help="one short round: does it run, not how fast")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    parser.add_argument("--parts", default=",".join(PARTS), help="default %(default)s")
    parser.add_argument("--rounds", type=int, default=3, help="default %(default)s")
    parser.add_argument("--warm-s", type=float, default=0.7, help="before each window; default %(default)s")
    parser.add_argument("--measure-s", type=float, default=2.0, help="each window; default %(default)s")
    cache = Path.home() / ".cache" / "infermesh" / "bench"
    parser.add_argument("--cache", type=Path, default=cache, help="where peers are installed; default %(default)s")
    options = parser.parse_args(arguments)
    if options.quick:
        options.rounds, options.warm_s, options.measure_s = 1, 0.3, 0.5
    if unknown := set(options.parts.split(",")) - set(PARTS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; known are {', '.join(PARTS)}")
    return options


def main(arguments: Sequence[str]) -> int:
    options = parse(arguments)
    windows = passthrough.Windows(options.rounds, options.warm_s, options.measure_s)
    facts = machine()

    def say(text: str) -> None:
        print(text, file=sys.stderr)

    parts: list[tuple[Samples, list[tuple[str, str]]]] = []
    if "passthrough" in options.parts.split(","):
        found = passthrough.run(proxies.ROWS, passthrough.WORKLOADS, windows, options.cache, say)
        parts.append((found, [(proxies.OURS, "envoy"), (proxies.OURS, "envoy-lean")]))
    plans = {
        "servers": (servers.GRPC_SERVERS, servers.GRPC_WORK, servers.ask_echo),
        "h2c": (servers.H2C_SERVERS, servers.H2C_WORK, servers.ask_page),
    }
    for part, (contestants, works, ready) in plans.items():
        if part in options.parts.split(","):
            plan = servers.Plan(part, contestants, works, ready, options.rounds, 0.2 if options.quick else 1.0)
            pairs = [(contestants[0].name, other.name) for other in contestants[1:]]
            parts.append((servers.run(plan, options.cache, say), pairs))
    if options.json:
        document = {
            "machine": facts,
            "rounds": options.rounds,
            "measure_s": options.measure_s,
            "parts": {
                samples.part: {
                    "versions": samples.versions,
                    "skipped": samples.skipped,
                    "units": dict(samples.units),
                    "table": msgspec.to_builtins(samples.table()),
                }
                for samples, _ in parts
            },
        }
        print(json.dumps(document))
    else:
        for samples, pairs in parts:
            print(render(samples, pairs))
        print(f"machine: {json.dumps(facts)}")
        print(f"{options.rounds} interleaved rounds of {options.measure_s:g} s each")
    cells = [cell for samples, _ in parts for row in samples.table().values() for cell in row.values()]
    return 0 if cells and all(cell.valid for cell in cells) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
