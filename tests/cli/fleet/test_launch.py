"""A fleet of real daemons with real mTLS: started, used, broken, stopped; and what is said when it does not start."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
import trio

from infermesh.cli.admin_client import AdminConnection
from infermesh.cli.admin_shapes import NodesPage
from infermesh.cli.exits import CommandFailed
from infermesh.cli.fleet.launch import Fleet, FleetOptions, open_fleet
from infermesh.core.model.names import NodeId


async def _states(fleet: Fleet) -> dict[str, str]:
    edge = AdminConnection(fleet.plan.edge.admin_url)
    try:
        page = await edge.read("/v1/nodes", NodesPage)
    finally:
        await edge.aclose()
    return {node.node: node.state for node in page.nodes}


@pytest.mark.slow
async def test_a_fleet_is_ready_when_it_is_handed_over_and_nothing_of_it_is_left(tmp_path: Path) -> None:
    told: list[str] = []
    async with open_fleet(FleetOptions(gpus=2, speed=10.0, folder=tmp_path / "fleet"), told.append) as fleet:
        assert await _states(fleet) == {"edge": "alive", "gpu-a": "alive", "gpu-b": "alive"}
        fleet.kill(NodeId("gpu-a"))
        await fleet.restart(NodeId("gpu-a"))
        processes = list(fleet.processes.values())
        assert all(process.running for process in processes)
    assert [process.exit_status for process in processes] == [0, 0, 0]
    assert told == [f"starting edge, gpu-a, gpu-b (logs in {tmp_path / 'fleet'})"]


@pytest.mark.slow
async def test_cancelled_while_starting_it_leaves_nothing(tmp_path: Path) -> None:
    with trio.CancelScope() as scope:

        def cancel(_step: str) -> None:
            scope.cancel()

        async with open_fleet(FleetOptions(gpus=1, folder=tmp_path), cancel):
            raise AssertionError("it must not get ready")
    assert scope.cancelled_caught
    # A daemon that was just started ends by SIGTERM before it has a handler for it, or in good order.
    assert not any(line for line in (tmp_path / "edge.log").read_text().splitlines() if "Traceback" in line)


@pytest.mark.slow
async def test_a_node_that_ends_is_named_with_the_end_of_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INFERMESH_ROUTING__POLICY", "coin_toss")
    with pytest.raises(CommandFailed) as caught:
        async with open_fleet(FleetOptions(gpus=1, folder=tmp_path), lambda _: None):
            raise AssertionError("it must not get ready")
    message = caught.value.message
    assert message.startswith("node gpu-a ended with status 2. The end of its log ")
    assert "coin_toss" in message
    assert "INFERMESH_ROUTING__POLICY" in message


async def test_ports_that_were_asked_for_and_are_taken_are_named(tmp_path: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        with pytest.raises(CommandFailed, match=f"port {port}.*: give --port another first port"):
            async with open_fleet(FleetOptions(gpus=1, folder=tmp_path, port_base=port), lambda _: None):
                raise AssertionError("it must not start")


async def test_a_folder_that_cannot_be_used_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CommandFailed, match="cannot prepare the fleet"):
        async with open_fleet(FleetOptions(gpus=1, folder=tmp_path / "file"), lambda _: None):
            raise AssertionError("it must not start")
