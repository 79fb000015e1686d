"""infermesh's own rows: `meshd` with everything on, over plaintext to local runtimes and over mTLS to GPU nodes.

Everything on means: metrics, request logs and spans at 1 % (spans go to a collector that takes them), admission,
scoring, hedging, state fusion. Limits are raised only where 1,000 streams need it.
"""

from __future__ import annotations

import importlib.metadata
import json
import sys
from pathlib import Path

from tests.bench.dataplane import processes
from tests.bench.dataplane.contestant import Contestant, Place, Running, Unavailable

ROUTER = "router"
SLOTS = 4096  # Per backend: the fakes never queue, and admission must not refuse 1,000 streams.

COMMON = """
[node]
id = "{node}"
roles = {roles}
data_dir = {data_dir}
[client]
listen = "127.0.0.1:{client}"
[mesh]
listen = "127.0.0.1:{mesh}"
[admin]
listen = "127.0.0.1:{admin}"
[trust]
domain = "bench.mesh"
[upstream]
connections_max = 4096
[tracing]
endpoint = "http://127.0.0.1:{collector}/v1/traces"
sample_ratio = 0.01
[logs]
level = "info"
request_sample_ratio = 0.01
"""
RUNTIME = """
[[runtimes]]
kind = "vllm"
url = "http://127.0.0.1:{port}"
slots = {slots}
"""
PEER = """
[[peers]]
id = "gpu-{number}"
address = "127.0.0.1:{port}"
roles = ["gpu"]
"""


def _install(cache: Path) -> str:
    if not _meshd().exists():
        raise Unavailable(f"{_meshd()} is not there: run scripts/setup")
    return importlib.metadata.version("infermesh")


def _meshd() -> Path:
    return Path(sys.executable).with_name("meshd")


def _start_plain(place: Place) -> Running:
    runtimes = "".join(RUNTIME.format(port=port, slots=SLOTS) for port in place.backends)
    return _start(place, ["edge", "gpu"], runtimes)


def _start_mtls(place: Place) -> Running:
    peers = "".join(PEER.format(number=number, port=port) for number, port in enumerate(place.mesh_backends))
    return _start(place, ["router"], peers)


def _start(place: Place, roles: list[str], rest: str) -> Running:
    assert place.trust is not None
    client, mesh, admin = place.ports[:3]
    config = place.folder / "node.toml"
    common = COMMON.format(
        node=ROUTER,
        roles=json.dumps(roles),
        data_dir=json.dumps(str(place.trust / ROUTER)),
        client=client,
        mesh=mesh,
        admin=admin,
        collector=place.backends[0],
    )
    config.write_text(common + rest, "utf-8")
    process = processes.start([_meshd(), "--config", config], core=place.core, log=place.folder / "log")
    return Running(process, client, admin)


INFERMESH = (
    Contestant("infermesh", _install, _start_plain),
    Contestant("infermesh-mtls", _install, _start_mtls),
)
