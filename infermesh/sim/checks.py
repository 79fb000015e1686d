"""What must hold of every simulated run, whatever the policy. A run that fails has no figures.

Each check has a planted bug in its test that it must catch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from infermesh.core.model.names import NodeId
from infermesh.sim.ledger import Ledger, Passage, Status
from infermesh.sim.node import SimNode


class ConservationError(Exception):
    """A simulated run whose accounts do not add up: a fault of the simulator or of the router."""


def check_run(ledger: Ledger, nodes: Mapping[NodeId, SimNode], leftovers: int) -> None:
    check_outcomes(ledger)
    check_drained(nodes, leftovers)
    check_littles_law(ledger)
    for passage in ledger.passages:
        if passage.status is Status.COMPLETED:
            check_least_time(passage, nodes)


def check_outcomes(ledger: Ledger) -> None:
    """arrived = completed + rejected + failed + cancelled, by the counters and by the requests themselves."""
    arrived = len(ledger.passages)
    numbers = {passage.request.number for passage in ledger.passages}
    if len(numbers) != arrived:
        raise ConservationError(f"{arrived} requests arrived, but only {len(numbers)} different ones")
    ended = sum(count for status, count in ledger.counts.items() if status is not Status.OPEN)
    if ended != arrived or ledger.in_system:
        raise ConservationError(
            f"{arrived} requests arrived and {ended} ended ({_counted(ledger)}); "
            f"{ledger.in_system} are still in the system"
        )
    for status in Status:
        found = sum(1 for passage in ledger.passages if passage.status is status)
        if found != ledger.counts[status]:
            raise ConservationError(f"{found} requests are {status}, but {ledger.counts[status]} were counted so")


def check_drained(nodes: Mapping[NodeId, SimNode], leftovers: int) -> None:
    """Every slot and KV block is free again, and no router counts an attempt that is over."""
    for name, node in nodes.items():
        engine = node.engine
        if engine.running or engine.queue_len or engine.kv_usage:
            raise ConservationError(
                f"node {name} still has {engine.running} running, {engine.queue_len} waiting and "
                f"{engine.kv_usage:.2%} of its KV blocks held after the drain"
            )
        engine.check()
    if leftovers:
        raise ConservationError(f"routers still count {leftovers} attempts after the drain")


def check_littles_law(ledger: Ledger) -> None:
    """L = lambda W: requests in the system, integrated over time, equal the times that they spent there."""
    spent_s = math.fsum(passage.ended_s - passage.arrived_s for passage in ledger.passages)
    if not math.isclose(spent_s, ledger.area_s, rel_tol=1e-6, abs_tol=1e-6):
        raise ConservationError(
            f"Little's law: requests spent {spent_s:.6f} s in the system, but their number over time "
            f"integrates to {ledger.area_s:.6f} s"
        )


def check_least_time(passage: Passage, nodes: Mapping[NodeId, SimNode]) -> None:
    """No first token before a round trip and the prefill of what was not cached."""
    assert passage.node is not None
    node = nodes[passage.node]
    request = passage.request
    least_ms = node.least_ttft_ms(request.prompt_tokens, passage.cached_tokens) + node.spec.rtt_s * 1e3
    if passage.ttft_ms < least_ms * (1.0 - 1e-9) - 1e-6:
        raise ConservationError(
            f"request {request.number} had its first token from {passage.node} after "
            f"{passage.ttft_ms:.3f} ms; {request.prompt_tokens} prompt tokens of which "
            f"{passage.cached_tokens} were cached take at least {least_ms:.3f} ms"
        )


def _counted(ledger: Ledger) -> str:
    return ", ".join(f"{ledger.counts[status]} {status}" for status in Status if status is not Status.OPEN)
