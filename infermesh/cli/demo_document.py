"""What a demo run amounts to: the one JSON document of `mesh demo --json`, and the same in a few lines. Pure."""

from __future__ import annotations

import msgspec
from rich.text import Text

from infermesh.cli.admin_shapes import HedgeTotals, SummaryPage
from infermesh.cli.fleet.plan import HOST, FleetPlan
from infermesh.cli.output import in_ms, in_seconds
from infermesh.cli.replay.ledger import Ledger, Status
from infermesh.cli.replay.report import Spread, spread_of


class NodeAddresses(msgspec.Struct, frozen=True, kw_only=True):
    mesh: str
    admin: str
    engine: str


class Addresses(msgspec.Struct, frozen=True, kw_only=True):
    client: str
    admin: str
    mesh: str
    nodes: dict[str, NodeAddresses]


class DemoNode(msgspec.Struct, frozen=True, kw_only=True):
    node: str
    profile: str
    speed: float
    emulated: bool = True


class KillTimes(msgspec.Struct, frozen=True, kw_only=True):
    """A GPU node was killed under load and started again."""

    node: str
    out_of_choice_s: float | None  # From SIGKILL until the edge sent it nothing more; None: it did not happen.
    down_s: float  # From SIGKILL until its process was started again.
    used_again_s: float | None  # From that start until a request went to it.


class KillFacts(KillTimes, frozen=True, kw_only=True):
    """The same with what it cost."""

    failed_flowing: int  # Streams that flowed from it when it died.
    failed_other: int  # Must be 0: everything else had somewhere to go.


class DemoDocument(msgspec.Struct, frozen=True, kw_only=True):
    requests: int
    completed: int
    failed: int
    rejected: int
    cancelled: int  # Clients of this demo that left on purpose.
    client_errors: int
    ttft_ms: Spread
    itl_ms: Spread
    choices: dict[str, int]
    hedges: HedgeTotals
    cancelled_upstream: int
    causes: dict[str, int]  # Why some failed or were rejected.
    started_in_s: float
    load_s: float
    duration_s: float
    addresses: Addresses
    nodes: list[DemoNode]
    emulated: bool = True
    kill: KillFacts | None = None

    @property
    def succeeded(self) -> bool:
        """Nothing failed but what cannot be saved: a stream that flowed from a node when it was killed."""
        allowed = self.kill.failed_flowing if self.kill is not None else 0
        return self.failed == allowed and not self.client_errors


class Times(msgspec.Struct, frozen=True, kw_only=True):
    started_in_s: float
    load_s: float
    duration_s: float


def make_document(
    ledger: Ledger, totals: SummaryPage, plan: FleetPlan, times: Times, kill: KillTimes | None
) -> DemoDocument:
    """Counts and times are this demo's own clients', choices and hedges the edge's."""
    bad = [passage for status in (Status.FAILED, Status.REJECTED, Status.CLIENT_ERROR) for passage in ledger.of(status)]
    causes: dict[str, int] = {}
    for passage in bad:
        words = f"{passage.cause}: {passage.detail}" if passage.detail else passage.cause
        causes[words] = causes.get(words, 0) + 1
    settled = ledger.settled
    return DemoDocument(
        requests=ledger.arrived,
        completed=settled[Status.COMPLETED],
        failed=settled[Status.FAILED],
        rejected=settled[Status.REJECTED],
        cancelled=settled[Status.CANCELLED],
        client_errors=settled[Status.CLIENT_ERROR],
        ttft_ms=spread_of([ttft_s * 1e3 for ttft_s in ledger.first_tokens_s]),
        itl_ms=spread_of([gap_s * 1e3 for gap_s in ledger.gaps_s]),
        choices={gpu.node: _chosen(totals, gpu.node) for gpu in plan.gpus},
        hedges=totals.hedges,
        cancelled_upstream=totals.cancelled_upstream,
        causes=causes,
        started_in_s=round(times.started_in_s, 3),
        load_s=round(times.load_s, 3),
        duration_s=round(times.duration_s, 3),
        addresses=addresses_of(plan),
        nodes=[DemoNode(node=gpu.node, profile=gpu.profile, speed=gpu.speed) for gpu in plan.gpus],
        kill=_kill_facts(ledger, kill) if kill is not None else None,
    )


def addresses_of(plan: FleetPlan) -> Addresses:
    return Addresses(
        client=plan.client_url,
        admin=plan.edge.admin_url,
        mesh=f"{HOST}:{plan.edge.mesh_port}",
        nodes={
            gpu.node: NodeAddresses(mesh=f"{HOST}:{gpu.mesh_port}", admin=gpu.admin_url, engine=gpu.engine_url)
            for gpu in plan.gpus
        },
    )


def document_lines(document: DemoDocument) -> list[Text]:
    """The run in words."""
    ttft, hedges = document.ttft_ms, document.hedges
    lines = [
        Text(
            f"{document.requests:,} requests in {in_seconds(document.load_s)}: completed {document.completed:,}, "
            f"failed {document.failed:,}, rejected {document.rejected:,}, cancelled {document.cancelled:,}"
            + (f", client errors {document.client_errors:,}" if document.client_errors else "")
        ),
        Text(f"time to first token: p50 {in_ms(ttft.p50)} ms, p90 {in_ms(ttft.p90)} ms, p99 {in_ms(ttft.p99)} ms"),
        Text("chosen: " + ", ".join(f"{node} {count:,}" for node, count in document.choices.items())),
        Text(
            f"hedges: {hedges.fired:,} fired, {hedges.won:,} won, {hedges.lost:,} lost, {hedges.denied:,} denied; "
            f"{document.cancelled_upstream:,} cancelled down to the engine"
        ),
    ]
    if document.kill is not None:
        lines.append(Text(kill_words(document.kill)))
    lines += [Text(f"{count:,} x {cause}", style="red") for cause, count in document.causes.items()]
    return lines


def kill_words(kill: KillFacts) -> str:
    out = "not out of choice" if kill.out_of_choice_s is None else f"out of choice after {kill.out_of_choice_s:.2f} s"
    again = "not used again" if kill.used_again_s is None else f"used again {kill.used_again_s:.2f} s after its start"
    return (
        f"{kill.node} was killed: {out}, down for {kill.down_s:.1f} s, {again}; "
        f"failed: {kill.failed_flowing:,} streams that flowed from it, {kill.failed_other:,} others"
    )


def _kill_facts(ledger: Ledger, kill: KillTimes) -> KillFacts:
    failed = ledger.of(Status.FAILED)
    flowing = sum(passage.flowing and passage.node == kill.node for passage in failed)
    return KillFacts(
        **msgspec.structs.asdict(kill), failed_flowing=flowing, failed_other=ledger.settled[Status.FAILED] - flowing
    )


def _chosen(totals: SummaryPage, node: str) -> int:
    mine = totals.per_node.get(node)
    return mine.chosen if mine is not None else 0
