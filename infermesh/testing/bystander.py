"""What a fault may do to others: nothing. One assertion around anything that goes wrong in a mesh.

    async with unharmed(mesh, counted={"edge bad_requests client malformed": 1}):
        ...  # a client misbehaves, a runtime dies, ...

While the block runs, a stream of another client is under way through the same router and node: it has had its first
event and waits for the rest. After the block it must come to its end, whole; everything that the block took must be
back (`Mesh.wait_quiet`); and exactly the named counters of faults have grown, on all nodes, by exactly so much.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing, asynccontextmanager
from typing import Final

from infermesh.observe.families import Counter
from infermesh.observe.metrics import Metrics
from infermesh.testing.completions import PATH, completion_body, event_text, expected_text
from infermesh.testing.mesh import BYSTANDER, Mesh, MeshNode
from infermesh.testing.waiting import wait_until

# Enough that the engine cannot come to the end before it is frozen: each token is a turn of the loop at least.
_TOKENS: Final = 24
_FINE: Final = frozenset({"ok"})


def fault_counts(mesh: Mesh) -> dict[str, float]:
    """Every counter of something that went wrong, as "node family label label", "-" for none, on all nodes that run."""
    found: dict[str, float] = {}
    for node in mesh.nodes:
        if node.running:
            found.update(_fault_counts_of(node))
    return found


def _fault_counts_of(node: MeshNode) -> dict[str, float]:
    metrics = node.node.sources.metrics
    return {
        " ".join((node.name, name, *(label or "-" for label in labels))): child.value
        for name, family in _families(metrics).items()
        for labels, child in family.items()
        if child.value and _FINE.isdisjoint(labels)
    }


def _families(metrics: Metrics) -> dict[str, Counter]:
    return {
        "bad_requests": metrics.bad_requests,
        "requests_rejected": metrics.requests_rejected,
        "inferences": metrics.inferences,  # Those that are not ok.
        "upstream_attempts": metrics.upstream_attempts,  # Those that are not ok.
        "retries": metrics.retries,
        "hedges": metrics.hedges,
        "stale_connection_retries": metrics.stale_connection_retries,
        "cancelled_upstream": metrics.cancelled_upstream,
        "connections_refused": metrics.connections_refused,
        "tls_handshakes_failed": metrics.tls_handshakes_failed,
        "target_ejections": metrics.target_ejections,
    }


@asynccontextmanager
async def unharmed(
    mesh: Mesh, *, counted: Mapping[str, int], clients: int = 0, within_s: float = 5.0
) -> AsyncGenerator[None, None]:
    """`counted`: by how much each counter of `fault_counts` grows; all others do not. `clients`: as `wait_quiet`'s."""
    assert mesh.plan.bystander is not None, "this plan has no engine for a bystander"
    engine = mesh.engines[mesh.plan.bystander][-1]
    before = fault_counts(mesh)
    async with await mesh.client() as client:
        await client.send("POST", PATH, completion_body("meanwhile", _TOKENS, stream=True, model=BYSTANDER))
        head = await client.head()
        assert head.status_code == 200, head
        async with aclosing(client.events()) as events:
            text = event_text(await anext(events))
            engine.faults.frozen = True
            try:
                yield
            finally:
                engine.faults.frozen = False
            last = ""
            async for last in events:
                text += event_text(last)
        assert last == "[DONE]", f"the bystander's stream ended with {last!r}"
        assert text == expected_text("meanwhile", _TOKENS), text
    await mesh.wait_quiet(clients=clients, within_s=within_s)

    def grown() -> dict[str, float]:
        now = fault_counts(mesh)
        grown = {name: now[name] - before.get(name, 0) for name in now}
        return {name: by for name, by in grown.items() if by}

    expected = dict(counted)
    await wait_until(lambda: grown() == expected, lambda: f"counted {grown()}, expected {expected}", within_s=within_s)
