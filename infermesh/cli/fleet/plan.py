"""What a local fleet consists of, and the config file of each of its nodes. Pure: ports are given."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import msgspec

from infermesh.core.model.names import NodeId
from infermesh.core.model.nodes import Role

HOST = "127.0.0.1"
TRUST_DOMAIN = "demo.mesh"
MODEL = "emulated-8b"
EDGE = NodeId("edge")

# GPU nodes in this order, and again from the start: each slower than the one before.
HARDWARE = ("h100", "a100", "l40s", "rtx4090")

GPUS_MAX = 16
EDGE_PORTS = 3
GPU_PORTS = 3


class NodePlan(msgspec.Struct, frozen=True, kw_only=True):
    """One node. `profile` is empty for the edge, which has no engine."""

    node: NodeId
    mesh_port: int
    admin_port: int
    client_port: int = 0  # 0: serves no clients.
    engine_port: int = 0
    profile: str = ""
    speed: float = 1.0

    @property
    def admin_url(self) -> str:
        return f"http://{HOST}:{self.admin_port}"

    @property
    def engine_url(self) -> str:
        return f"http://{HOST}:{self.engine_port}"


class FleetPlan(msgspec.Struct, frozen=True, kw_only=True):
    edge: NodePlan
    gpus: tuple[NodePlan, ...]

    @property
    def nodes(self) -> tuple[NodePlan, ...]:
        return (self.edge, *self.gpus)

    @property
    def client_url(self) -> str:
        return f"http://{HOST}:{self.edge.client_port}"

    def node(self, name: NodeId) -> NodePlan:
        return next(plan for plan in self.nodes if plan.node == name)


def ports_needed(gpus: int) -> int:
    return EDGE_PORTS + GPU_PORTS * gpus


def plan_fleet(gpus: int, *, ports: Sequence[int], speed: float) -> FleetPlan:
    """An edge and `gpus` GPU nodes. The first two ports are the edge's client and admin port."""
    assert 1 <= gpus <= GPUS_MAX
    assert len(ports) == ports_needed(gpus)
    edge = NodePlan(node=EDGE, client_port=ports[0], admin_port=ports[1], mesh_port=ports[2])
    nodes = []
    for number in range(gpus):
        mesh, admin, engine = ports[EDGE_PORTS + GPU_PORTS * number :][:GPU_PORTS]
        nodes.append(
            NodePlan(
                node=NodeId(f"gpu-{chr(ord('a') + number)}"),
                mesh_port=mesh,
                admin_port=admin,
                engine_port=engine,
                profile=HARDWARE[number % len(HARDWARE)],
                speed=speed,
            )
        )
    return FleetPlan(edge=edge, gpus=tuple(nodes))


def node_toml(fleet: FleetPlan, node: NodePlan, data_dir: Path) -> str:
    """The node's config file, as a person would write it."""
    routes = node.node == fleet.edge.node
    lines = [
        f"# Node {node.node} of a local fleet. All keys: mesh config explain",
        "[node]",
        f'id = "{node.node}"',
        f'roles = ["{Role.ROUTER if routes else Role.GPU}"]',
        f"data_dir = {json.dumps(str(data_dir))}",  # A JSON string is a TOML string.
        "",
        "[mesh]",
        f'listen = "{HOST}:{node.mesh_port}"',
        "",
        "[admin]",
        f'listen = "{HOST}:{node.admin_port}"',
        "",
        "[trust]",
        f'domain = "{TRUST_DOMAIN}"',
    ]
    if routes:
        lines += ["", "[client]", f'listen = "{HOST}:{node.client_port}"']
        for gpu in fleet.gpus:
            lines += ["", "[[peers]]", f'id = "{gpu.node}"', f'address = "{HOST}:{gpu.mesh_port}"', 'roles = ["gpu"]']
    else:
        lines += [
            "",
            "# No [[runtimes]]: an emulated engine answers, and says so wherever it shows.",
            "[emulator]",
            f'models = ["{MODEL}"]',
            f'profile = "{node.profile}"',
            f"speed = {node.speed!r}",
            f'listen = "{HOST}:{node.engine_port}"',
        ]
    return "\n".join(lines) + "\n"


# What a fleet sets itself. From the environment only the rest is handed on to its daemons, so that a machine that
# runs a configured meshd can run a demo too, and `INFERMESH_ROUTING__POLICY=round_robin mesh demo` works.
_OWN_SECTIONS = ("NODE", "CLIENT", "MESH", "ADMIN", "TRUST", "PEERS", "RUNTIMES", "EMULATOR")


def daemon_environment(environ: dict[str, str]) -> dict[str, str]:
    own = tuple(f"INFERMESH_{section}__" for section in _OWN_SECTIONS)
    return {name: value for name, value in environ.items() if not name.startswith(own)}
