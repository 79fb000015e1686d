import itertools

import pytest

from infermesh.core.kernel.members import Members
from infermesh.core.model.names import NodeId
from infermesh.core.model.nodes import NodeRecord, NodeState

ME, PEER = NodeId("edge"), NodeId("gpu-a")


def record(node: NodeId, state: NodeState = NodeState.JOINING) -> NodeRecord:
    return NodeRecord(node=node, mesh_address=None, roles=frozenset(), zone="", state=state, since=1.0)


@pytest.mark.parametrize(("held", "told"), list(itertools.product(NodeState, NodeState)))
def test_every_state_answers_every_news(held: NodeState, told: NodeState) -> None:
    members = Members(ME, [record(ME), record(PEER, held)])
    members.tell(PEER, told, 2.0, reason="", rtt_s=None)
    after = members.get(PEER)
    assert after is not None
    assert after.state in (held, told)
    if told is NodeState.ALIVE:
        assert after.state is NodeState.ALIVE
    if told is NodeState.JOINING or (held is NodeState.LEFT and told is not NodeState.ALIVE):
        assert after.state is held
    assert after.since == (1.0 if after.state is held else 2.0)


def test_news_that_change_nothing_are_no_news() -> None:
    members = Members(ME, [record(ME), record(PEER)])
    assert members.tell(PEER, NodeState.DEAD, 2.0, reason="refused", rtt_s=None) is not None
    assert members.tell(PEER, NodeState.DEAD, 3.0, reason="refused", rtt_s=None) is None
    change = members.tell(PEER, NodeState.DEAD, 4.0, reason="certificate expired", rtt_s=None)
    assert change is not None
    assert (change[1].reason, change[1].since) == ("certificate expired", 2.0)
    assert members.tell(NodeId("stranger"), NodeState.ALIVE, 5.0, reason="", rtt_s=None) is None


def test_a_suspicion_of_a_dead_node_does_not_rewrite_why_it_died() -> None:
    members = Members(ME, [record(ME), record(PEER)])
    members.tell(PEER, NodeState.DEAD, 2.0, reason="refused", rtt_s=None)
    assert members.tell(PEER, NodeState.SUSPECT, 3.0, reason="silent", rtt_s=0.5) is None
    held = members.get(PEER)
    assert held is not None
    assert (held.reason, held.rtt_s) == ("refused", 0.0)


def test_all_is_a_copy_in_order() -> None:
    members = Members(ME, [record(PEER), record(ME)])
    everybody = members.all()
    assert list(everybody) == [ME, PEER]
    everybody.clear()
    assert members.get(PEER) is not None
