"""The replay benchmark: routing policies against each other on recorded traces, through a mesh of real daemons.

`scripts/bench replay [--quick] [--json]`. One fleet of emulated engines, one router for each policy in front of it;
every slice of a trace is played through each of them in turn. How to read the figures: docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import msgspec
import trio

from infermesh.cli.exits import CommandFailed
from infermesh.cli.trace_file import read_trace
from infermesh.core.routing.router_config import POLICY_NAMES
from infermesh.sim.node import NodeSpec, make_nodes
from infermesh.sim.trace import TraceRequest
from tests.bench.dataplane.__main__ import machine
from tests.bench.replay.arm import Arm, ArmOptions, Objectives, play
from tests.bench.replay.foretold import foretell
from tests.bench.replay.mesh import BenchMesh, Tell, open_mesh
from tests.bench.replay.report import Contest, document_of, render
from tests.bench.replay.slices import Slice, SliceOptions, cut, prompt_tokens_per_s

TRACES = Path(__file__).parents[2] / "fixtures" / "traces"
DEFAULT_TRACES = (TRACES / "azure_llm_2023_code_300.csv", TRACES / "mooncake_conversation_300.jsonl")
BASELINE = "round_robin"
# Objectives of a person who reads along, at the speed of the emulated hardware.
TTFT_SLO_MS, GAP_SLO_MS = 2_000.0, 100.0


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    files: tuple[Path, ...]
    policies: tuple[str, ...]
    specs: tuple[NodeSpec, ...]
    loads: tuple[float, ...]
    rounds: int
    seconds: float
    from_request: int
    output_tokens_max: int
    objectives: Objectives
    simulate: bool


def parse(arguments: Sequence[str]) -> tuple[Settings, argparse.Namespace]:
    parser = argparse.ArgumentParser(prog="scripts/bench replay", description="Routing policies on recorded traces.")
    parser.add_argument("--quick", action="store_true", help="one short round: does it run, not who wins")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    parser.add_argument("--rounds", type=int, default=3, help="default %(default)s")
    parser.add_argument("--trace", type=Path, nargs="+", default=DEFAULT_TRACES, help="default: the short excerpts")
    parser.add_argument("--policies", default=f"predicted_ms,{BASELINE}", help="default %(default)s")
    parser.add_argument("--nodes", default="h100,a100,l40s", help="as of mesh sim routing; default %(default)s")
    parser.add_argument("--speed", type=float, default=4.0, help="factor on all engines' speed; default %(default)s")
    parser.add_argument("--loads", default="0.3,0.65", help="of what the fleet can compute; default %(default)s")
    parser.add_argument("--seconds", type=float, default=40.0, help="of each arm; default %(default)s")
    parser.add_argument("--from-request", type=int, default=0, help="begin there in the trace; default %(default)s")
    parser.add_argument("--max-output", type=int, default=512, help="tokens of an answer; default %(default)s")
    parser.add_argument("--no-sim", action="store_true", help="leave out the simulator's figures")
    options = parser.parse_args(arguments)
    if options.quick:
        options.rounds, options.seconds, options.loads = 1, 6.0, "0.5"
    policies = tuple(options.policies.split(","))
    if len(policies) < 2 or len(set(policies)) != len(policies) or not set(policies) <= set(POLICY_NAMES):
        parser.error(f"--policies: name two or more of {', '.join(POLICY_NAMES)}, each once")
    try:
        loads = tuple(float(load) for load in options.loads.split(","))
        specs = make_nodes(options.nodes)
    except ValueError as error:
        parser.error(str(error))
    if min(*loads, options.speed, options.seconds, options.rounds) <= 0 or options.from_request < 0:
        parser.error("--loads, --speed, --seconds and --rounds must be above 0, --from-request 0 or above")
    return Settings(
        files=tuple(options.trace),
        policies=policies,
        specs=tuple(msgspec.structs.replace(spec, speed=spec.speed * options.speed) for spec in specs),
        loads=loads,
        rounds=options.rounds,
        seconds=options.seconds,
        from_request=options.from_request,
        output_tokens_max=options.max_output,
        objectives=Objectives(ttft_ms=TTFT_SLO_MS / options.speed, gap_ms=GAP_SLO_MS / options.speed),
        simulate=not options.no_sim,
    ), options


def slices_of(settings: Settings, name: str, trace: Sequence[TraceRequest], load: float) -> list[Slice]:
    """One for each round, each where the one before ended."""
    capacity = prompt_tokens_per_s(settings.specs)
    options = SliceOptions(load=load, seconds=settings.seconds, output_tokens_max=settings.output_tokens_max)
    pieces: list[Slice] = []
    for _ in range(settings.rounds):
        first = pieces[-1].next_request if pieces else settings.from_request
        pieces.append(cut(name, trace, first, capacity, options))
    return pieces


async def contest(settings: Settings, mesh: BenchMesh, pieces: Sequence[Slice], tell: Tell, *, seed: int) -> Contest:
    arms: list[Arm] = []
    for number, piece in enumerate(pieces):
        # Turned round each time, so that a drift of the machine meets both alike.
        order = settings.policies if number % 2 == 0 else settings.policies[::-1]
        for policy in order:
            tell(f"{piece.trace} at load {piece.load:g}, round {number + 1} of {len(pieces)}: {policy}")
            arm_options = ArmOptions(policy=policy, round=number, seed=seed + number, objectives=settings.objectives)
            arms.append(await play(mesh, piece, arm_options))
    return Contest(
        trace=pieces[0].trace,
        load=pieces[0].load,
        baseline=BASELINE if BASELINE in settings.policies else settings.policies[-1],
        slices=list(pieces),
        arms=arms,
        foretold=[
            foretell(piece, settings.specs, settings.policies, settings.objectives, seed=seed) for piece in pieces
        ]
        if settings.simulate
        else [],
    )


async def run(settings: Settings, folder: Path, tell: Tell) -> list[Contest]:
    contests: list[Contest] = []
    traces = {file.name: read_trace(file) for file in settings.files}
    async with open_mesh(settings.specs, settings.policies, folder, tell) as mesh:
        for name, trace in traces.items():
            for load in settings.loads:
                pieces = slices_of(settings, name, trace, load)
                seed = 1_000 * (len(contests) + 1)
                contests.append(await contest(settings, mesh, pieces, tell, seed=seed))
    return contests


def main(arguments: Sequence[str]) -> int:
    settings, options = parse(arguments)
    facts = machine()
    try:
        with tempfile.TemporaryDirectory(prefix="infermesh-replay-") as folder:
            contests = trio.run(run, settings, Path(folder), lambda text: print(text, file=sys.stderr))
    except CommandFailed as failure:
        print(f"scripts/bench replay: {failure.message}", file=sys.stderr)
        return 1
    profiles = {
        f"gpu-{chr(ord('a') + number)}": f"{spec.profile.name} x{spec.speed:g}"
        for number, spec in enumerate(settings.specs)
    }
    if options.json:
        document = {
            "machine": facts,
            "nodes": profiles,
            "prompt_tokens_per_s": prompt_tokens_per_s(settings.specs),
            "objectives": msgspec.to_builtins(settings.objectives),
            "contests": [document_of(each) for each in contests],
        }
        print(msgspec.json.encode(document).decode())  # Unlike json's, it has no word that is not JSON.
    else:
        for each in contests:
            print(render(each, profiles))
        print(f"machine: {json.dumps(facts)}")
        print(f"the fleet computes {prompt_tokens_per_s(settings.specs):,.0f} prompt tokens a second at most")
    return 1 if any(each.faults for each in contests) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
