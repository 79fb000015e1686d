"""One arm: a slice of a trace through one router, the fleet at rest before and after, the books of all sides checked.

Also what it cost: CPU of the client, of the router and of the GPU nodes, and how much of the machine was busy with
something else. Figures of an arm whose books do not add up are kept with its faults, for the report to refuse.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

import msgspec
import trio

from infermesh.cli.admin_shapes import NodeTotals, SummaryPage
from infermesh.cli.exits import CommandFailed
from infermesh.cli.replay.report import ReplayReport, make_report
from infermesh.cli.replay.run import RunOptions, replay
from infermesh.core.model.names import NodeId
from infermesh.sim.node import NodeSpec
from tests.bench.dataplane import processes
from tests.bench.replay.books import EngineTotals, engine_since, faults_of, summary_since
from tests.bench.replay.mesh import BenchMesh
from tests.bench.replay.slices import Slice

_TIMEOUT_S = 600.0


class Objectives(msgspec.Struct, frozen=True, kw_only=True):
    """What a good answer is, for goodput."""

    ttft_ms: float
    gap_ms: float


class NodeShare(msgspec.Struct, frozen=True, kw_only=True):
    """One GPU node's part in an arm."""

    chosen: int  # Attempts sent to it, hedges and retries among them.
    won: int
    busy: float  # Share of the arm in which its engine computed, by the cost model.
    prompt_tokens: int
    cached_tokens: int  # Of those, found in its prefix cache.
    preemptions: int


class CpuShares(msgspec.Struct, frozen=True, kw_only=True):
    """Cores in use over the arm: 1.0 is one whole core."""

    client: float
    router: float
    gpus: float
    foreign: float  # What was not ours, idle routers among it.
    cores: int


class Arm(msgspec.Struct, frozen=True, kw_only=True):
    policy: str
    round: int
    clients: ReplayReport
    router: SummaryPage
    nodes: dict[str, NodeShare]
    cpu: CpuShares
    faults: list[str]  # What does not add up between the sides; [] as it must be.

    @property
    def hit_rate(self) -> float:
        asked = sum(node.prompt_tokens for node in self.nodes.values())
        return sum(node.cached_tokens for node in self.nodes.values()) / asked if asked else 0.0


class ArmOptions(msgspec.Struct, frozen=True, kw_only=True):
    policy: str
    round: int
    seed: int  # Another seed, other text: nobody has met these prefixes.
    objectives: Objectives


async def play(mesh: BenchMesh, piece: Slice, options: ArmOptions) -> Arm:
    """Raises CommandFailed when the fleet does not come to rest, or a signal ended the replay."""
    await mesh.calm()
    summary, engines = await mesh.summary(options.policy), await mesh.engines()
    meter = _Meter(mesh, options.policy)
    # Its port alone says which router answers; nothing else differs between two arms.
    result = await replay(
        piece.arrivals,
        RunOptions(target=mesh.plans[options.policy].client_url, seed=options.seed, timeout_s=_TIMEOUT_S),
        progress=False,
    )
    cpu = meter.read()
    if result.interrupted:
        raise CommandFailed("stopped before the benchmark was over")
    await mesh.rest()
    report = make_report(
        result.ledger,
        sent=result.sent,
        ttft_slo_ms=options.objectives.ttft_ms,
        itl_slo_ms=options.objectives.gap_ms,
    )
    router = summary_since(summary, await mesh.summary(options.policy))
    moved = {node: engine_since(engines[node], now) for node, now in (await mesh.engines()).items()}
    return Arm(
        policy=options.policy,
        round=options.round,
        clients=report,
        router=router,
        nodes=_shares(mesh.specs, moved, router, report.duration_s),
        cpu=cpu,
        faults=faults_of(report, router, moved),
    )


class _Meter:
    """CPU time from now until `read`."""

    def __init__(self, mesh: BenchMesh, policy: str) -> None:
        self._groups = {
            "client": [os.getpid()],
            "router": mesh.pids([mesh.plans[policy].edge]),
            "gpus": mesh.pids(mesh.gpus),
        }
        self._cores = sorted(os.sched_getaffinity(0))
        self._began = trio.current_time()
        self._spent = self._look()
        self._busy_s = self._machine_s()

    def read(self) -> CpuShares:
        elapsed_s = trio.current_time() - self._began
        spent = {name: (now - self._spent[name]) / elapsed_s for name, now in self._look().items()}
        busy = (self._machine_s() - self._busy_s) / elapsed_s
        foreign = max(0.0, busy - sum(spent.values()))
        return CpuShares(**spent, foreign=foreign, cores=len(self._cores))

    def _look(self) -> dict[str, float]:
        return {name: processes.cpu_seconds(pids) for name, pids in self._groups.items()}

    def _machine_s(self) -> float:
        return sum(processes.core_busy_seconds(core) for core in self._cores)


def _shares(
    specs: Mapping[NodeId, NodeSpec], engines: Mapping[str, EngineTotals], router: SummaryPage, span_s: float
) -> dict[str, NodeShare]:
    shares = {}
    for node, spec in specs.items():
        engine, sent = engines[node], router.per_node.get(node, NodeTotals())
        shares[str(node)] = NodeShare(
            chosen=sent.chosen,
            won=sent.won,
            busy=min(1.0, busy_s(spec, engine) / span_s),
            prompt_tokens=engine.prefix_query_tokens,
            cached_tokens=engine.prefix_hit_tokens,
            preemptions=engine.preemptions,
        )
    return shares


def busy_s(spec: NodeSpec, engine: EngineTotals) -> float:
    """Time that an engine's steps took, by its cost model.

    Prompts count whole when their computing begins: those aborted halfway make it a little more than it was, those of
    preempted requests, computed twice, a little less.
    """
    profile = spec.profile.at_speed(spec.speed)
    computed = engine.prefix_query_tokens - engine.prefix_hit_tokens
    busy_ms = (
        profile.step_base_ms * engine.steps
        + profile.per_sequence_ms * engine.generation_tokens
        + profile.per_prefill_token_ms * computed
    )
    return busy_ms * 1e-3
