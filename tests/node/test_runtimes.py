from __future__ import annotations

import json
import random
from functools import partial
from pathlib import Path

import pytest
import trio

from infermesh.core.model.names import NodeId, target_key
from infermesh.core.model.state import ModelState
from infermesh.net.pool import PoolLimits
from infermesh.node.config import load_config
from infermesh.node.config_sections import KSERVE_KINDS, RUNTIME_KINDS, RuntimeSection
from infermesh.node.runtimes import Runtimes, runtime_adapter
from infermesh.observe.logs import get_logger
from infermesh.planes.data.pools import Pools
from infermesh.planes.signal.adapters.runtime.kserve import KServeAdapter
from infermesh.testing.http_peer import HttpPeer, PeerRequest, PeerResponse, serve_http_peer
from infermesh.testing.reactors import running_reactor

INDEX = json.dumps([{"name": name, "version": "1", "state": "READY"} for name in ("addsub", "tokgen")]).encode()


async def _answer(request: PeerRequest, response: PeerResponse) -> None:
    await response.send(INDEX if request.target == "/v2/repository/index" else b"")


@pytest.mark.parametrize("kind", RUNTIME_KINDS)
async def test_each_kind_has_its_adapter(kind: str) -> None:
    adapter = runtime_adapter(RuntimeSection(kind=kind, url="http://127.0.0.1:1"), NodeId("gpu-a"), get_logger())
    assert isinstance(adapter, KServeAdapter) == (kind in KSERVE_KINDS)
    await adapter.aclose()


async def test_one_runtime_brings_a_target_for_each_of_its_models_and_the_address_of_its_grpc_port(
    tmp_path: Path,
) -> None:
    heard: dict[str, ModelState] = {}
    complete = trio.Event()

    def report(state: ModelState) -> None:
        heard[target_key(state.node, state.model, state.replica)] = state
        if len(heard) == 4:
            complete.set()

    async with running_reactor() as running, trio.open_nursery() as nursery:
        peers: list[HttpPeer] = [await nursery.start(serve_http_peer, _answer) for _ in range(2)]
        file = tmp_path / "node.toml"
        text = '[node]\nid = "gpu-a"\nroles = ["gpu", "router"]\n'
        text += f'[[runtimes]]\nkind = "triton"\nurl = "{peers[0].base_url}"\ngrpc_url = "127.0.0.1:8001"\nslots = 2\n'
        text += f'[[runtimes]]\nkind = "kserve"\nurl = "{peers[1].base_url}"\n'
        file.write_text(text)
        pools = Pools(running.reactor, running.timers, PoolLimits(), None, on_handshake_failed=lambda node, why: None)
        runtimes = Runtimes(
            load_config(file, {}, {}),
            pools,
            report=report,
            report_gpu=lambda gpu: None,
            rng=random.Random(1),
            log=get_logger(),
        )
        await nursery.start(partial(runtimes.run))
        with trio.fail_after(10):
            await complete.wait()
        pools.close()
        nursery.cancel_scope.cancel()
    assert sorted(heard) == ["gpu-a/addsub", "gpu-a/addsub#1", "gpu-a/tokgen", "gpu-a/tokgen#1"]
    assert (heard["gpu-a/addsub"].runtime, heard["gpu-a/addsub"].slots) == ("triton", 2)
    addresses = {key: pools.grpc_runtime(target_key(state.node, state.model)) for key, state in heard.items()}
    assert {key: pool.address for key, pool in addresses.items() if pool is not None} == dict.fromkeys(
        heard, ("127.0.0.1", 8001)
    )
    for key, state in heard.items():
        assert runtimes.latest(target_key(state.node, state.model, state.replica)) is not None, key
        assert pools.runtime(target_key(state.node, state.model, state.replica)) is not None
