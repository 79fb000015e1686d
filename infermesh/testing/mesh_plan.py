"""What a mesh for tests shall be made of, and the config files of its nodes, as an operator would write them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from infermesh.emulator import EmulatorConfig
from infermesh.node.config import NodeConfig, load_config
from infermesh.testing.certificates import NodeFiles

MODEL: Final = "emulated-8b"
"""What the engines of a plan serve unless it says otherwise."""
ROUTER: Final = "edge"

# As `meshd --set` takes them: dotted keys and their text.
Settings = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class RuntimeAt:
    """A runtime that the test itself serves, and the model that it lists. `grpc_address`: where it takes gRPC."""

    url: str
    model: str = MODEL
    slots: int = 8
    kind: str = "emulated"
    grpc_address: tuple[str, int] | None = None

    def lines(self) -> str:
        """Its `[[runtimes]]` entry."""
        text = f'[[runtimes]]\nkind = "{self.kind}"\nurl = "{self.url}"\nslots = {self.slots}'
        if self.grpc_address is not None:
            text += f'\ngrpc_url = "{self.grpc_address[0]}:{self.grpc_address[1]}"'
        return text


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuPlan:
    """One GPU node with engines of its own, which are there before it and outlive it. They are its `[[runtimes]]`."""

    engines: Sequence[EmulatorConfig] = (EmulatorConfig(models=(MODEL,), profile="tiny"),)
    runtimes: Sequence[RuntimeAt] = ()
    settings: Settings = field(default_factory=dict)
    relayed: bool = False
    """The router reaches its mesh port through a `TcpRelay`, that is, a network that can be broken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeshPlan:
    """A router and its GPU nodes, which are named gpu-a, gpu-b, ... `settings` are for every node."""

    gpus: Sequence[GpuPlan] = (GpuPlan(),)
    router: Settings = field(default_factory=dict)
    own: Sequence[RuntimeAt] = ()
    """Runtimes of the router's own, which is an edge with GPUs then."""
    settings: Settings = field(default_factory=dict)
    bystander: int | None = 0
    """Which GPU node serves the model of `Mesh.unharmed` as well, on an engine of its own; None: none does."""
    seed: int = 0


def gpu_name(index: int) -> str:
    return f"gpu-{'abcdefghijklmnopqrstuvwxyz'[index]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeLines:
    """What a node's config file says."""

    roles: Sequence[str]
    settings: Settings
    runtimes: Sequence[RuntimeAt] = ()
    peers: Mapping[str, tuple[str, int]] = field(default_factory=dict)


def write_config(files: NodeFiles, lines: NodeLines) -> NodeConfig:
    """Write the file into the node's folder and read it back, with every check that meshd makes."""
    text = [
        f'[node]\nid = "{files.node}"\nroles = {json.dumps(lines.roles)}\ndata_dir = {json.dumps(str(files.folder))}',
        f'[trust]\ndomain = "{files.domain}"',
        '[client]\nlisten = "127.0.0.1:0"\n[mesh]\nlisten = "127.0.0.1:0"\n[admin]\nlisten = "127.0.0.1:0"',
    ]
    text += [runtime.lines() for runtime in lines.runtimes]
    text += [f'[[peers]]\nid = "{name}"\naddress = "{host}:{port}"' for name, (host, port) in lines.peers.items()]
    path: Path = files.folder / "node.toml"
    path.write_text("\n".join(text) + "\n", "utf-8")
    return load_config(path, {}, lines.settings)
