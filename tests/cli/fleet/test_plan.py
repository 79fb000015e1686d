"""The plan of a local fleet, and configs that a daemon takes."""

from __future__ import annotations

from pathlib import Path

import pytest

from infermesh.cli.fleet.plan import FleetPlan, daemon_environment, node_toml, plan_fleet, ports_needed
from infermesh.core.model.nodes import Role
from infermesh.core.model.profiles import PROFILES
from infermesh.node.config import load_config


def _plan(gpus: int = 3) -> FleetPlan:
    return plan_fleet(gpus, ports=range(20_000, 20_000 + ports_needed(gpus)), speed=2.0)


def test_gpu_nodes_differ_and_no_port_is_used_twice() -> None:
    plan = _plan(16)
    assert [gpu.node for gpu in plan.gpus[:3]] == ["gpu-a", "gpu-b", "gpu-c"]
    paces = [PROFILES[gpu.profile].step_ms(1, 1_000) for gpu in plan.gpus[:3]]
    assert paces == sorted(set(paces)), "each slower than the one before"
    ports = [plan.edge.client_port, plan.edge.admin_port, plan.edge.mesh_port]
    ports += [port for gpu in plan.gpus for port in (gpu.mesh_port, gpu.admin_port, gpu.engine_port)]
    assert sorted(ports) == list(range(20_000, 20_000 + ports_needed(16)))
    assert len({node.node for node in plan.nodes}) == 17


@pytest.mark.parametrize("gpus", [1, 3])
def test_every_config_is_accepted_by_the_daemon_and_says_what_was_planned(tmp_path: Path, gpus: int) -> None:
    plan = _plan(gpus)
    for node in plan.nodes:
        file = tmp_path / f'{node.node} "quoted".toml'
        file.write_text(node_toml(plan, node, tmp_path / 'a "b"'), "utf-8")
        config = load_config(file, {}, {})
        assert config.node.id == node.node
        assert config.node.data_dir == tmp_path / 'a "b"'
        assert (config.mesh.listen.port, config.admin.listen.port) == (node.mesh_port, node.admin_port)
        if node.node == "edge":
            assert config.node.roles == {Role.ROUTER}
            assert config.client.listen.port == node.client_port
            assert [(peer.id, peer.address.port) for peer in config.peers] == [
                (gpu.node, gpu.mesh_port) for gpu in plan.gpus
            ]
        else:
            assert config.node.roles == {Role.GPU}
            assert (config.emulator.profile, config.emulator.speed) == (node.profile, 2.0)
            assert config.emulator.listen.port == node.engine_port


def test_a_daemon_inherits_tuning_and_not_the_settings_of_another_daemon() -> None:
    environ = {
        "PATH": "/bin",
        "INFERMESH_ROUTING__POLICY": "round_robin",
        "INFERMESH_NODE__ID": "prod-7",
        "INFERMESH_CLIENT__LISTEN": "0.0.0.0:8080",
        "INFERMESH_EMULATOR__SPEED": "9",
        "INFERMESH_ADMIN": "http://prod:9090",
    }
    assert daemon_environment(environ) == {
        "PATH": "/bin",
        "INFERMESH_ROUTING__POLICY": "round_robin",
        "INFERMESH_ADMIN": "http://prod:9090",
    }
