"""The books of one arm, kept by three sides that must agree: the clients, the router, the engines. Pure.

Each side counts for itself. What the clients saw must be what the router says, figure by figure; what the router
sent must have reached the engines, and each engine must have ended all that it was given.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from infermesh.cli.admin_shapes import HedgeTotals, NodeTotals, SummaryPage
from infermesh.cli.replay.report import ReplayReport


class EngineTotals(msgspec.Struct, frozen=True, kw_only=True):
    """One engine's counters, as its own statistics page has them."""

    running: int = 0
    waiting: int = 0
    submitted: int = 0
    completed: int = 0
    aborted_total: int = 0
    preemptions: int = 0
    generation_tokens: int = 0
    prefix_query_tokens: int = 0
    prefix_hit_tokens: int = 0
    steps: int = 0


_GAUGES = ("running", "waiting")


def engine_since(before: EngineTotals, after: EngineTotals) -> EngineTotals:
    """Counters as the difference, gauges as they are now."""
    return EngineTotals(
        **{
            name: getattr(after, name) - (0 if name in _GAUGES else getattr(before, name))
            for name in EngineTotals.__struct_fields__
        }
    )


def summary_since(before: SummaryPage, after: SummaryPage) -> SummaryPage:
    """The router's totals of the time between two looks. The quantiles are not of that time, and left out."""
    nodes = sorted(after.per_node)
    old = {node: before.per_node.get(node, NodeTotals()) for node in nodes}
    return SummaryPage(
        requests=after.requests - before.requests,
        completed=after.completed - before.completed,
        failed=after.failed - before.failed,
        rejected=after.rejected - before.rejected,
        cancelled=after.cancelled - before.cancelled,
        in_flight=after.in_flight,
        per_node={
            node: NodeTotals(
                chosen=after.per_node[node].chosen - old[node].chosen,
                won=after.per_node[node].won - old[node].won,
                cancelled=after.per_node[node].cancelled - old[node].cancelled,
            )
            for node in nodes
        },
        hedges=HedgeTotals(
            fired=after.hedges.fired - before.hedges.fired,
            won=after.hedges.won - before.hedges.won,
            lost=after.hedges.lost - before.hedges.lost,
            denied=after.hedges.denied - before.hedges.denied,
        ),
        cancelled_upstream=after.cancelled_upstream - before.cancelled_upstream,
    )


def faults_of(clients: ReplayReport, router: SummaryPage, engines: Mapping[str, EngineTotals]) -> list[str]:
    """What does not add up, in words; [] when every request is accounted for on all sides."""
    faults = []
    for what, seen, told in (
        ("arrived", clients.arrived, router.requests),
        # The router counts a wrongly asked request as answered.
        ("completed", clients.completed + clients.client_errors, router.completed),
        ("rejected", clients.rejected, router.rejected),
        ("failed", clients.failed, router.failed),
        ("cancelled", clients.cancelled, router.cancelled),
    ):
        if seen != told:
            faults.append(f"{what}: {seen} by the clients, {told} by the router")
    ended = router.completed + router.rejected + router.failed + router.cancelled
    if router.in_flight or router.requests != ended:
        faults.append(f"router: {router.requests} came, {ended} ended, {router.in_flight} are said to be in flight")
    for node in sorted(router.per_node.keys() | engines.keys()):
        sent, engine = router.per_node.get(node, NodeTotals()), engines.get(node, EngineTotals())
        faults += [f"{node}: {fault}" for fault in _node_faults(sent, engine, clients.nodes.get(node, 0))]
    refused = sum(node.won for node in router.per_node.values()) - clients.completed
    if refused != clients.client_errors:
        faults.append(f"{clients.client_errors} were refused as wrongly asked by the clients, {refused} by the router")
    return faults


def _node_faults(sent: NodeTotals, engine: EngineTotals, answered: int) -> list[str]:
    """`answered`: completed requests whose answer says that it is from this node."""
    faults = []
    if engine.running or engine.waiting:
        faults.append(f"{engine.running} still run and {engine.waiting} wait")
    if engine.submitted != engine.completed + engine.aborted_total:
        faults.append(
            f"the engine was given {engine.submitted}, completed {engine.completed} and aborted {engine.aborted_total}"
        )
    # What the engine's server refused with a 4xx is answered, but was never given to the engine.
    refused = sent.won - answered
    # A hedge may lose before it reached its engine, or just after its engine was done.
    if not 0 <= answered <= engine.completed <= engine.submitted <= sent.chosen - refused:
        faults.append(
            f"{sent.chosen} sent, {refused} refused, {engine.submitted} given to the engine, "
            f"{engine.completed} completed there, {answered} answered from there"
        )
    missing = sent.chosen - refused - engine.submitted
    if missing > sent.cancelled:
        faults.append(f"{missing} never reached the engine, and only {sent.cancelled} were cancelled")
    return faults
