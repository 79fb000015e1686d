"""What the kernel costs a control loop: 1,000 GPU nodes, 5 deltas a second each, a view every 10 ms.

Sketch before measuring: 5,000 deltas/s at 5 us are 2.5 % of a core; 100 views/s that copy a table of 1,000 and
rebuild one model's tuple of 1,000 at 0.3 ms are 3 %. Run by hand: `python tests/bench/kernel_bench.py`.
"""

from __future__ import annotations

import random
import time

from infermesh.core.kernel import Kernel, KernelConfig
from infermesh.core.model.names import ModelName, NodeId, target_key
from infermesh.core.model.nodes import Address, NodeRecord, NodeState, Role
from infermesh.core.model.outcome import Outcome, Verdict
from infermesh.core.model.state import Lifecycle, ModelState

NODES = 1000
DELTAS_PER_S = 5 * NODES
VIEW_EVERY_S = 0.01
SECONDS = 20
ME = NodeId("edge")


def _record(node: NodeId) -> NodeRecord:
    return NodeRecord(
        node=node,
        mesh_address=None if node == ME else Address("10.0.0.1", 7443),
        roles=frozenset({Role.GPU}),
        zone="z1",
        state=NodeState.JOINING,
        since=0.0,
    )


def _state(node: NodeId, model: ModelName, sequence: int, queue_len: int) -> ModelState:
    return ModelState(
        node=node,
        model=model,
        runtime="vllm",
        incarnation=1,
        sequence=sequence,
        source_time=float(sequence),
        lifecycle=Lifecycle.READY,
        queue_len=queue_len,
        running=4,
        slots=256,
        kv_usage=0.5,
    )


def measure(models: int) -> None:
    """`models` different models, each served by an equal part of the nodes."""
    rng = random.Random(1)
    nodes = [NodeId(f"gpu-{number:04}") for number in range(NODES)]
    names = [ModelName(f"model-{number % models}") for number in range(NODES)]
    kernel = Kernel(KernelConfig(), ME, [_record(ME), *map(_record, nodes)])
    for node, name in zip(nodes, names, strict=True):
        kernel.on_node_state(node, NodeState.ALIVE, 0.0)
        kernel.on_model_state(_state(node, name, 1, 0), 0.0)
    kernel.view(0.0)
    kernel.take_events()
    per_view = int(DELTAS_PER_S * VIEW_EVERY_S)
    views = int(SECONDS / VIEW_EVERY_S)
    sequence, at = 1, 0
    delta_s = view_s = outcome_s = wake_s = 0.0
    for view_number in range(views):
        now = view_number * VIEW_EVERY_S
        states = []
        for _ in range(per_view):
            at = (at + 1) % NODES
            sequence += 1
            states.append(_state(nodes[at], names[at], sequence, rng.randrange(9)))
        key = target_key(nodes[at], names[at])
        outcome = Outcome(target=key, verdict=Verdict.OK, first_byte_s=0.1, total_s=1.0)
        began = time.perf_counter()
        for state in states:
            kernel.on_model_state(state, now)
        told = time.perf_counter()
        kernel.on_outcome(outcome, now)
        counted = time.perf_counter()
        if kernel.wake_at <= now:
            kernel.on_wake(now)
        woken = time.perf_counter()
        kernel.view(now)
        delta_s += told - began
        outcome_s += counted - told
        wake_s += woken - counted
        view_s += time.perf_counter() - woken
    events = len(kernel.take_events())
    total_s = delta_s + view_s + wake_s
    print(
        f"{models:4} models: {delta_s / (views * per_view) * 1e6:.2f} us a delta, "
        f"{view_s / views * 1e6:.0f} us a view with {per_view} changes, {outcome_s / views * 1e6:.2f} us an outcome; "
        f"{total_s / SECONDS:.1%} of one core at {DELTAS_PER_S} deltas/s and {1 / VIEW_EVERY_S:.0f} views/s "
        f"({events} events)"
    )


if __name__ == "__main__":
    for count in (1, 10, 100):
        measure(count)
