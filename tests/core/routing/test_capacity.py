from infermesh.core.model.names import ModelName, NodeId, target_key
from infermesh.core.model.state import Lifecycle, ModelState
from infermesh.core.model.targets import Target
from infermesh.core.routing.capacity import fleet_slots


def target(name: str, slots: int) -> Target:
    node, model = NodeId(name), ModelName("m")
    state = ModelState(
        node=node,
        model=model,
        runtime="vllm",
        incarnation=1,
        sequence=1,
        source_time=0.0,
        lifecycle=Lifecycle.READY,
        slots=slots,
    )
    return Target(key=target_key(node, model), node=node, model=model, state=state, received_at=0.0)


def test_slots_add_up_and_an_engine_that_does_not_say_counts_as_told() -> None:
    assert fleet_slots([target("a", 256), target("b", 0)], slots_unknown=32) == 288
    assert fleet_slots([], slots_unknown=32) == 0
