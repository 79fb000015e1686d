from __future__ import annotations

import socket

import pytest
import trio

from infermesh.testing.leftovers import descriptors
from infermesh.testing.mesh import running_mesh
from infermesh.testing.mesh_plan import MeshPlan


def test_descriptors_are_counted() -> None:
    before = descriptors()
    if not before:
        pytest.skip("this system does not tell")
    with socket.socket(), socket.socket():
        assert descriptors() == before + 2
    assert descriptors() == before


async def test_an_idle_client_is_expected_only_where_it_is_said_to_be_there() -> None:
    async with running_mesh(MeshPlan(bystander=None)) as mesh:
        assert mesh.leftovers.found() == []
        assert mesh.leftovers.found(clients=1) != []
        async with await trio.open_tcp_stream(*mesh.router.client_address):
            await mesh.wait_quiet(clients=1)
            assert mesh.leftovers.found() == [
                "connections accepted by the router: {'client': 1, 'mesh': 0}",
                "edge: 1 connection tasks for 0 connections",
            ]


async def test_nodes_and_engines_that_are_down_hold_nothing() -> None:
    async with running_mesh(MeshPlan(bystander=None)) as mesh:
        await mesh.gpus[0].kill()
        await mesh.engine.kill()
        await mesh.router.kill()
        assert mesh.leftovers.found() == []
