"""The emulated engine is read by the adapter that reads a real vLLM, and is never mistaken for one."""

from __future__ import annotations

import msgspec
import trio

from infermesh.core.model.names import NodeId
from infermesh.core.model.profiles import PROFILES
from infermesh.core.model.state import Lifecycle
from infermesh.emulator.config import EmulatorConfig
from infermesh.emulator.server import EmulatorServer, serve_emulator
from infermesh.net.fetch import fetch
from infermesh.planes.signal.adapters.runtime.vllm import VllmAdapter, VllmConfig
from infermesh.testing.recorded_log import RecordedLog


async def test_every_signal_of_an_emulated_engine_is_found(nursery: trio.Nursery) -> None:
    config = EmulatorConfig(models=("a", "b"), speed=50.0)
    server: EmulatorServer = await nursery.start(serve_emulator, config)
    url = server.url
    log = RecordedLog()
    adapter = VllmAdapter(VllmConfig(url=url, slots=256), NodeId("gpu-a"), log)
    idle = await adapter.sample()
    assert [(state.model, state.runtime, state.lifecycle) for state in idle] == [
        ("a", "emulated", Lifecycle.READY),
        ("b", "emulated", Lifecycle.READY),
    ]
    assert {(state.running, state.queue_len) for state in idle} == {(0, 0)}
    profile = PROFILES[config.profile]
    assert {state.kv_capacity_tokens for state in idle} == {profile.kv_blocks * profile.block_tokens}
    assert {state.context_tokens_max for state in idle} == {config.context_tokens_max}
    body = msgspec.json.encode({"model": "a", "prompt": "word " * 200, "max_tokens": 20})
    headers = [(b"content-type", b"application/json")]
    answer = await fetch(
        f"{url}/v1/completions", method="POST", headers=headers, body=body, deadline_s=10.0, body_bytes_max=100_000
    )
    assert answer.status == 200
    busy, other = await adapter.sample()
    assert busy.ttft_ms > 0.0
    assert busy.itl_ms > 0.0
    assert busy.generation_tokens_per_s > 0.0
    assert busy.prompt_tokens_per_s > 0.0
    assert (other.ttft_ms, other.generation_tokens_per_s) == (0.0, 0.0)
    assert busy.incarnation == idle[0].incarnation > 0
    assert log.events == []
    await adapter.aclose()
