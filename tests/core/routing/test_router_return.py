"""A target that comes back: what was learnt of it in its last, bad moments does not keep requests away."""

from __future__ import annotations

import random

from infermesh.core.model.names import ModelName, NodeId, target_key
from infermesh.core.model.nodes import NodeRecord, NodeState, Role
from infermesh.core.model.outcome import Verdict
from infermesh.core.model.request import RequestFacts
from infermesh.core.model.state import Lifecycle, ModelState
from infermesh.core.model.targets import RoutingView, Target
from infermesh.core.routing.router import Router
from infermesh.core.routing.router_config import RoutingConfig

MODEL = ModelName("m")
FACTS = RequestFacts(model=MODEL, prompt_bytes=100, output_tokens_max=20, stream=True, blocks=())


def _view(*, dead: str = "", incarnation: int = 1) -> RoutingView:
    nodes, targets = {}, {}
    for name in ("a", "b"):
        node = NodeId(name)
        away = name == dead
        nodes[node] = NodeRecord(
            node=node,
            mesh_address=None,
            roles=frozenset({Role.GPU}),
            zone="",
            state=NodeState.DEAD if away else NodeState.ALIVE,
            since=0.0,
        )
        state = ModelState(
            node=node,
            model=MODEL,
            runtime="vllm",
            incarnation=incarnation,
            sequence=1,
            source_time=0.0,
            lifecycle=Lifecycle.READY,
        )
        key = target_key(node, MODEL)
        targets[key] = Target(
            key=key,
            node=node,
            model=MODEL,
            state=state,
            received_at=0.0,
            rtt_s=0.0,
            zone="",
            suspect=False,
            unavailable="node dead" if away else "",
        )
    eligible = {MODEL: tuple(target for target in targets.values() if not target.unavailable)}
    return RoutingView(version=1, built_at=0.0, nodes=nodes, eligible=eligible, targets=targets, gpus=())


def _serve(router: Router, node: str, ttft_s: float, now: float, verdict: Verdict = Verdict.OK) -> None:
    """One request at a node, with its first byte after so long."""
    plan = router.score_all(FACTS, now)
    candidate = next(candidate for candidate in plan.candidates if candidate.target.node == node)
    lease = router.dispatched(candidate, FACTS, now)
    if verdict is Verdict.OK:
        router.first_byte(lease, now + ttft_s)
    router.finished(lease, now + ttft_s, verdict, output_tokens=20, prompt_tokens=25)


def _learnt(now: float) -> Router:
    """A fleet of two of which `b` has been met slow, and failing in the end."""
    router = Router(RoutingConfig(), random.Random(1))
    router.install(_view(), now)
    for _ in range(6):
        _serve(router, "a", 0.02, now)
        _serve(router, "b", 0.5, now)
    for _ in range(3):
        _serve(router, "b", 0.5, now, Verdict.BROKEN)
    return router


def _score_ms(router: Router, now: float) -> dict[NodeId, float]:
    return {candidate.target.node: candidate.score_ms for candidate in router.score_all(FACTS, now).candidates}


def test_a_node_back_from_the_dead_is_met_as_an_average_one_though_its_engine_ran_on() -> None:
    router = _learnt(10.0)
    before = _score_ms(router, 10.5)
    assert before[NodeId("b")] > 5 * before[NodeId("a")]
    router.install(_view(dead="b"), 11.0)
    router.install(_view(), 14.0)
    after = _score_ms(router, 14.0)
    assert after[NodeId("b")] < 1.5 * after[NodeId("a")]


def test_a_restarted_engine_is_met_as_an_average_one() -> None:
    router = _learnt(10.0)
    router.install(_view(incarnation=2), 11.0)
    after = _score_ms(router, 11.0)
    assert after[NodeId("b")] < 1.5 * after[NodeId("a")]


def test_a_fresh_report_of_the_same_engine_changes_nothing_of_what_was_learnt() -> None:
    router = _learnt(10.0)
    before = _score_ms(router, 11.0)
    router.install(_view(), 11.0)
    assert _score_ms(router, 11.0) == before
