"""What a demo does to its own fleet to show how the mesh takes it: slow an engine for a moment, kill a node.

Each drill runs beside the load and waits for what it names. Nothing here counts requests: the load's books do.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec
import trio

from infermesh.cli.admin_client import AdminConnection
from infermesh.cli.admin_shapes import NodesPage, SummaryPage
from infermesh.cli.demo_document import KillTimes
from infermesh.cli.exits import CommandFailed
from infermesh.cli.fleet.launch import Fleet
from infermesh.cli.fleet.plan import NodePlan
from infermesh.core.model.names import NodeId
from infermesh.net.fetch import FetchError, fetch

Tell = Callable[[str], None]

SLOW_FACTOR = 30.0  # A step of 15 ms takes half a second: late for every first token, not stuck.
SLOW_FOR_S = 1.5
DOWN_FOR_S = 3.0
_SEEN_WITHIN_S = 10.0
_USED_WITHIN_S = 15.0
_LOOK_EVERY_S = 0.02
_SWITCH_DEADLINE_S = 2.0
_ANSWER_BYTES_MAX = 65_536


async def slow_down(fleet: Fleet, tell: Tell) -> None:
    """Make the node that is used most slow for a moment, so that hedges have a reason."""
    plan = fleet.plan.node(await _busiest(fleet))
    tell(f"{plan.node}: engine {SLOW_FACTOR:g} times slower for {SLOW_FOR_S:g} s")
    try:
        await _switch(plan, slow_factor=SLOW_FACTOR)
        await trio.sleep(SLOW_FOR_S)
    finally:
        with trio.move_on_after(_SWITCH_DEADLINE_S, shield=True):
            await _switch(plan, slow_factor=1.0)


async def kill_and_restart(fleet: Fleet, tell: Tell) -> KillTimes:
    """SIGKILL the node that is used most, see it leave the choice, start it again, see it used."""
    node = await _busiest(fleet)
    watch = AdminConnection(fleet.plan.edge.admin_url)
    try:
        tell(f"{node}: killed (SIGKILL)")
        killed_at = trio.current_time()
        fleet.kill(node)
        out_s = await _until(lambda: _is_out(watch, node), _SEEN_WITHIN_S)
        tell(f"{node}: " + ("still chosen" if out_s is None else f"out of choice after {out_s:.2f} s"))
        await trio.sleep_until(killed_at + DOWN_FOR_S)
        chosen = await _chosen(watch, node)
        started_at = trio.current_time()
        await fleet.restart(node)
        used_s = await _until(lambda: _is_used(watch, node, chosen), _USED_WITHIN_S, since=started_at)
        tell(f"{node}: " + ("not used again" if used_s is None else f"used again {used_s:.2f} s after its start"))
    finally:
        await watch.aclose()
    return KillTimes(
        node=node,
        out_of_choice_s=None if out_s is None else round(out_s, 3),
        down_s=round(started_at - killed_at, 3),
        used_again_s=None if used_s is None else round(used_s, 3),
    )


async def _busiest(fleet: Fleet) -> NodeId:
    watch = AdminConnection(fleet.plan.edge.admin_url)
    try:
        totals = await watch.read("/v1/summary", SummaryPage)
    finally:
        await watch.aclose()
    chosen = {node: totals.per_node[node].chosen for node in totals.per_node}
    return max((gpu.node for gpu in fleet.plan.gpus), key=lambda node: chosen.get(node, 0))


async def _switch(plan: NodePlan, **switches: float) -> None:
    """The fault switches of a node's emulated engine."""
    try:
        answer = await fetch(
            f"{plan.engine_url}/emulator/faults",
            method="POST",
            body=msgspec.json.encode(switches),
            deadline_s=_SWITCH_DEADLINE_S,
            body_bytes_max=_ANSWER_BYTES_MAX,
        )
    except FetchError as error:
        raise CommandFailed(f"the engine of {plan.node} did not take {switches}: {error}") from error
    if answer.status != 200:
        raise CommandFailed(f"the engine of {plan.node} refused {switches}: {answer.body.decode('utf-8', 'replace')}")


async def _until(holds: Callable[[], Awaitable[bool]], within_s: float, *, since: float | None = None) -> float | None:
    """Seconds from `since` (now) until it holds; None when it does not within `within_s`."""
    since = trio.current_time() if since is None else since
    with trio.move_on_at(since + within_s):
        while not await holds():  # noqa: ASYNC110 (what is waited for is in another process)
            await trio.sleep(_LOOK_EVERY_S)
        return trio.current_time() - since
    return None


async def _is_out(watch: AdminConnection, node: NodeId) -> bool:
    """No target of the node may be chosen, by the edge's own view."""
    page = await watch.read("/v1/nodes", NodesPage)
    row = next(row for row in page.nodes if row.node == node)
    return row.state in ("dead", "left") or all(target.unavailable for target in row.models)


async def _is_used(watch: AdminConnection, node: NodeId, chosen_before: int) -> bool:
    return await _chosen(watch, node) > chosen_before


async def _chosen(watch: AdminConnection, node: NodeId) -> int:
    totals = (await watch.read("/v1/summary", SummaryPage)).per_node.get(node)
    return totals.chosen if totals is not None else 0
