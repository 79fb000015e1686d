import math

import pytest

from infermesh.core.model.profiles import PROFILES
from infermesh.sim.node import NodeSpec, SimNode, make_nodes
from infermesh.sim.trace import TraceRequest
from infermesh.sim.workload import SimRequest, make_workload

PROFILE = PROFILES["h100"].with_block_tokens(512)


def _node(speed: float = 1.0) -> SimNode:
    return SimNode(NodeSpec(name="gpu-0", profile=PROFILE, speed=speed))


def _requests(*sizes: tuple[int, int]) -> tuple[SimRequest, ...]:
    return make_workload([TraceRequest(float(n), prompt, out, ()) for n, (prompt, out) in enumerate(sizes)])


def _run(node: SimNode) -> dict[str, dict[int, float]]:
    """End every step that is left; when each request had its first and its last token."""
    seen: dict[str, dict[int, float]] = {"first": {}, "finished": {}}
    while node.ends_at < math.inf:
        now = node.ends_at
        ended = node.end_step(now)
        seen["first"].update((number, now) for number, _ in ended.first)
        seen["finished"].update((number, now) for number in ended.finished)
    return seen


def test_a_lone_request_takes_its_prefill_and_a_step_for_each_further_token() -> None:
    node = _node()
    [request] = _requests((1000, 5))
    node.submit(request, 10.0)
    seen = _run(node)
    first_s = 0.015 + 0.0002 + 0.063
    assert seen["first"] == {0: pytest.approx(10.0 + first_s)}
    assert seen["finished"] == {0: pytest.approx(10.0 + first_s + 4 * 0.0152)}
    assert node.least_ttft_ms(1000, 0) == pytest.approx(first_s * 1000)
    assert node.busy_s == pytest.approx(first_s + 4 * 0.0152)


def test_a_node_at_half_speed_takes_twice_as_long() -> None:
    node = _node(speed=0.5)
    [request] = _requests((1000, 5))
    node.submit(request, 0.0)
    assert _run(node)["first"] == {0: pytest.approx(2 * 0.0782)}


def test_a_run_of_equal_steps_is_cut_where_somebody_comes() -> None:
    node = _node()
    one, two = _requests((1000, 100), (1000, 1))
    node.submit(one, 0.0)
    node.end_step(node.ends_at)
    began = 0.0782
    assert node.ends_at > began + 10 * 0.0152  # Many steps at once.
    node.submit(two, began + 2.5 * 0.0152)
    assert node.ends_at == pytest.approx(began + 3 * 0.0152)
    seen = _run(node)
    assert seen["first"] == {1: pytest.approx(began + 3 * 0.0152 + 0.015 + 2 * 0.0002 + 0.063)}


def test_cutting_a_run_to_look_at_it_changes_no_time() -> None:
    looked_at, left_alone = _node(), _node()
    for node in (looked_at, left_alone):
        for request in _requests((1000, 300), (3000, 200)):
            node.submit(request, 0.0)
    seen: dict[int, float] = {}
    now = 0.0
    while looked_at.ends_at < math.inf:
        now += 0.1
        while looked_at.ends_at <= now:
            at = looked_at.ends_at
            seen.update((number, at) for number in looked_at.end_step(at).finished)
        looked_at.sample(now)
    assert seen == pytest.approx(_run(left_alone)["finished"])
    assert looked_at.busy_s == pytest.approx(left_alone.busy_s)


def test_a_sample_says_what_an_adapter_would_read() -> None:
    node = _node()
    one, two = _requests((1000, 101), (1000, 101))
    node.submit(one, 0.0)
    node.submit(two, 0.0)
    _run_until(node, 1.0)
    state = node.sample(1.0)
    assert (state.queue_len, state.running, state.sequence, state.incarnation) == (0, 2, 1, 1)
    assert state.slots == 256
    assert state.prompt_tokens_per_s == pytest.approx(2000.0)
    assert state.itl_ms == pytest.approx(15.4, rel=0.2)  # The second prompt ran between two tokens of the first.
    assert state.kv_usage == pytest.approx(node.engine.kv_usage)
    _run_until(node, 1.5)
    later = node.sample(1.5)
    assert later.itl_ms == pytest.approx(15.4)
    assert later.generation_tokens_per_s == pytest.approx(2 / 0.0154, rel=0.05)
    assert (later.prompt_tokens_per_s, later.sequence) == (0.0, 2)
    _run(node)
    idle = node.sample(9.0)
    assert idle.itl_ms == pytest.approx(15.4, rel=0.01)
    assert node.sample(10.0).itl_ms == idle.itl_ms  # Nothing new: the last one known.


def _run_until(node: SimNode, now: float) -> None:
    while node.ends_at <= now:
        node.end_step(node.ends_at)


def test_the_hint_is_the_load_of_this_moment() -> None:
    node = _node()
    for request in _requests((1000, 10), (1000, 10)):
        node.submit(request, 0.0)
    _run_until(node, 0.2)
    hint = node.hint()
    assert (hint.queue_len, hint.running, hint.incarnation) == (0, 2, 1)


def test_an_abort_ends_with_the_step_under_way() -> None:
    node = _node()
    [request] = _requests((1000, 100))
    node.submit(request, 0.0)
    assert node.abort(request.number, 0.01)
    seen = _run(node)
    assert seen["finished"] == {}
    assert (node.engine.running, node.engine.kv_usage) == (0, 0.0)
    assert not node.abort(request.number, 1.0)


def test_a_crash_loses_all_and_a_restart_is_a_new_engine() -> None:
    node = _node()
    [request] = _requests((1000, 100))
    node.submit(request, 0.0)
    node.crash()
    assert (node.up, node.ends_at, node.engine.running) == (False, math.inf, 0)
    node.restart(5.0)
    assert (node.up, node.incarnation) == (True, 2)
    node.submit(request, 5.0)
    _run_until(node, 6.0)
    assert node.sample(6.0).prompt_tokens_per_s == pytest.approx(1000.0)


def test_a_slowed_node_takes_longer_from_its_next_step_on() -> None:
    node = _node()
    [request] = _requests((1000, 2))
    node.slowdown = 10.0
    node.submit(request, 0.0)
    assert _run(node)["first"] == {0: pytest.approx(0.782)}


def test_nodes_are_written_as_speeds_and_profiles() -> None:
    nodes = make_nodes("1, 0.5,l40s,a100:2", rtt_s=0.003)
    assert [(node.name, node.profile.name, node.speed) for node in nodes] == [
        ("gpu-0", "h100", 1.0),
        ("gpu-1", "h100", 0.5),
        ("gpu-2", "l40s", 1.0),
        ("gpu-3", "a100", 2.0),
    ]
    assert {node.rtt_s for node in nodes} == {0.003}
    assert {node.profile.block_tokens for node in nodes} == {512}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1,b200", "'b200' is neither a speed, a profile, nor PROFILE:SPEED"),
        ("b200:1", "no profile 'b200'; known are h100"),
        ("0", "a speed is from 0.001 to 1000"),
        ("nan", "a speed is from"),
        ("", "'' is neither"),
    ],
)
def test_nodes_that_cannot_be_read_are_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_nodes(text)
