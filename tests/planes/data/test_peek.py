"""What choice reads of a request, and what it refuses to read."""

from __future__ import annotations

import math
import random

import pytest

from infermesh.core.model.names import ModelName, NodeId, target_key
from infermesh.core.model.request import Priority
from infermesh.core.model.state import Lifecycle, ModelState
from infermesh.core.model.targets import RoutingView, Target
from infermesh.core.routing.prefix import blocks_of
from infermesh.core.routing.router import Router
from infermesh.core.routing.router_config import RoutingConfig
from infermesh.planes.data.errors import RequestRefused
from infermesh.planes.data.peek import Hints, read_facts, read_hints
from wire.http1 import parse_request_head

HINTS = Hints(Priority.DEFAULT, math.inf, "", may_hedge=True)


def hints_of(*lines: bytes) -> Hints:
    return read_hints(parse_request_head(b"\r\n".join([b"POST / HTTP/1.1", b"host: a", *lines, b"", b""])))


def view_of_one(model: ModelName) -> RoutingView:
    node = NodeId("gpu-a")
    state = ModelState(
        node=node,
        model=model,
        runtime="vllm",
        incarnation=1,
        sequence=1,
        source_time=0.0,
        lifecycle=Lifecycle.READY,
        slots=8,
    )
    key = target_key(node, model)
    target = Target(key=key, node=node, model=model, state=state, received_at=0.0)
    return RoutingView(version=1, built_at=0.0, nodes={}, eligible={model: (target,)}, targets={key: target})


@pytest.mark.parametrize("digits", [10, 400, 4000])
def test_a_cap_on_tokens_of_any_length_is_a_number_that_choice_can_work_with(digits: int) -> None:
    facts = read_facts(b'{"model":"m","max_tokens":1' + b"0" * digits + b"}", HINTS, 0.0, blocks_of)
    router = Router(RoutingConfig(), random.Random(0))
    router.install(view_of_one(facts.model), 0.0)
    [candidate] = router.plan(facts, 1.0).candidates
    assert math.isfinite(candidate.score_ms)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"", None),
        (b"[]", None),
        (b"{}", "model"),
        (b'{"model":1}', "model"),
        (b'{"model":""}', "model"),
        (b'{"model":"\xff"}', None),
        (b'{"model":"\\ud800"}', None),
        (b'{"model":"m","max_tokens":"many"}', "max_tokens"),
        (b'{"model":"m","messages":' + b"[" * 100_000, None),
    ],
)
def test_a_body_that_is_no_request_is_refused_with_the_field_that_is_wrong(body: bytes, param: str | None) -> None:
    with pytest.raises(RequestRefused) as caught:
        read_facts(body, HINTS, 0.0, blocks_of)
    assert (caught.value.status, caught.value.param) == (400, param)


@pytest.mark.parametrize("value", [b"0", b"-1", b"nan", b"inf", b"x", b"1e12", b""])
def test_a_deadline_that_is_no_time_is_refused(value: bytes) -> None:
    with pytest.raises(RequestRefused) as caught:
        hints_of(b"x-infermesh-deadline-ms: " + value)
    assert caught.value.param == "x-infermesh-deadline-ms"


def test_blanks_around_a_hint_are_not_part_of_it() -> None:
    assert hints_of(b"x-infermesh-hedge:  Never ").may_hedge is False
    assert hints_of(b"x-infermesh-priority:  bulk\t").priority is Priority.BULK
