from __future__ import annotations

import pytest

from infermesh.core.model.names import ModelName, NodeId
from infermesh.core.model.state import Lifecycle, LoadHint, ModelState
from infermesh.planes.data.local import hint_of


def state(*, queue_len: int, slots: int) -> ModelState:
    return ModelState(
        node=NodeId("gpu-a"),
        model=ModelName("m"),
        runtime="vllm",
        incarnation=7,
        sequence=1,
        source_time=0.0,
        lifecycle=Lifecycle.READY,
        queue_len=queue_len,
        slots=slots,
        kv_usage=0.5,
    )


@pytest.mark.parametrize(
    ("inside", "queue_len", "slots", "waiting"),
    [
        (3, 0, 8, 0),
        (10, 0, 8, 2),  # Beyond the slots.
        (6, 4, 8, 4),  # KV memory keeps four waiting, although slots are free.
        (2, 4, 8, 2),  # The sample is older than the answers since: no more can wait than are there.
        (5, 1, 0, 1),  # Slots unknown.
    ],
)
def test_what_is_inside_waits_or_runs(inside: int, queue_len: int, slots: int, waiting: int) -> None:
    hint = hint_of(state(queue_len=queue_len, slots=slots), inside)
    assert hint == LoadHint(7, waiting, inside - waiting, 0.5)
