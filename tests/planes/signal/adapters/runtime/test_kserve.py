from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
import trio
from trio.testing import MockClock

from infermesh.core.model.names import ModelName, NodeId
from infermesh.core.model.state import Lifecycle, ModelState
from infermesh.planes.signal.adapters.runtime.kserve import READY_ASKED_MAX, KServeAdapter, KServeConfig
from infermesh.planes.signal.adapters.runtime.port import Capability, CapabilityMissingError, RuntimeAdapterError
from infermesh.testing.http_peer import HttpPeer, PeerRequest, PeerResponse, serve_http_peer
from infermesh.testing.recorded_log import RecordedLog

LOAD = (Path(__file__).parents[4] / "fixtures" / "triton" / "metrics_load.txt").read_bytes()
NODE = NodeId("gpu-a")
DECOUPLED = b'{"name":"tokgen","backend":"python","model_transaction_policy":{"decoupled":true}}'


class _Server:
    """A Triton with the captured page, until told otherwise. Loads and unloads what it is told to."""

    def __init__(self) -> None:
        self.index: dict[str, str] = {"addsub": "READY", "tokgen": "READY"}
        self.answers: dict[str, tuple[int, bytes]] = {
            "/v2/health/ready": (200, b""),
            "/metrics": (200, LOAD),
            "/v2/models/tokgen/config": (200, DECOUPLED),
        }
        self.asked: list[str] = []
        self.cut: set[str] = set()
        self.silent: set[str] = set()

    async def answer(self, request: PeerRequest, response: PeerResponse) -> None:
        self.asked.append(request.target)
        if request.target in self.silent:
            await trio.sleep_forever()
        if request.target in self.cut:
            self.cut.discard(request.target)
            await response.abort()
            raise trio.BrokenResourceError
        status, body = self.answers.get(request.target) or self._usual(request)
        await response.send(body, status=status)

    def _usual(self, request: PeerRequest) -> tuple[int, bytes]:
        match request.target.split("/")[1:]:
            case ["v2", "repository", "index"]:
                assert (request.method, request.body) == ("POST", b"{}")
                rows = [{"name": name, "version": "1", "state": state} for name, state in self.index.items()]
                return 200, json.dumps(rows).encode()
            case ["v2", "models", name, "ready"]:
                return (200, b"") if self.index.get(name) == "READY" else (400, b'{"error":"not ready"}')
            case ["v2", "models", name, "config"]:
                return 200, b'{"name":"%s"}' % name.encode()
            case ["v2", "repository", "models", name, verb]:
                self.index[name] = "READY" if verb == "load" else "UNLOADING"
                return 200, b""
        return 404, b'{"error":"not found"}'


class _Rig:
    def __init__(self, server: _Server, peer: HttpPeer, config: KServeConfig) -> None:
        self.server = server
        self.peer = peer
        self.log = RecordedLog()
        self.unix_s = 1_795_500_000.0
        self.adapter = KServeAdapter(config, NODE, self.log, unix_time=lambda: self.unix_s)

    async def sample(self) -> dict[str, ModelState]:
        return {state.model: state for state in await self.adapter.sample()}

    async def lifecycles(self) -> dict[str, str]:
        return {name: state.lifecycle.value for name, state in (await self.sample()).items()}


@asynccontextmanager
async def _rig(*, metrics: bool = True, **settings: object) -> AsyncIterator[_Rig]:
    server = _Server()
    async with trio.open_nursery() as nursery:
        peer: HttpPeer = await nursery.start(serve_http_peer, server.answer)
        config = KServeConfig(
            url=peer.base_url, kind="triton", slots=4, metrics_url=f"{peer.base_url}/metrics" if metrics else ""
        )
        rig = _Rig(server, peer, msgspec.structs.replace(config, **settings))
        try:
            yield rig
        finally:
            await rig.adapter.aclose()
            nursery.cancel_scope.cancel()


async def test_one_server_brings_several_models_each_with_its_own_queue() -> None:
    async with _rig() as rig:
        await rig.adapter.start()
        states = await rig.sample()
        assert states["addsub"] == ModelState(
            node=NODE,
            model=ModelName("addsub"),
            runtime="triton",
            incarnation=1_795_500_000_000,
            sequence=1_795_500_000_000,
            source_time=1_795_500_000.0,
            lifecycle=Lifecycle.READY,
            queue_len=64,
            slots=4,
        )
        assert (states["tokgen"].queue_len, states["tokgen"].lifecycle) == (2, Lifecycle.READY)
        assert (rig.log.events, rig.adapter.kind) == ([], "triton")


async def test_without_a_metrics_page_the_load_is_unknown_and_the_models_are_ready() -> None:
    async with _rig(metrics=False) as rig:
        states = await rig.sample()
        assert [(state.lifecycle, state.queue_len, state.ttft_ms) for state in states.values()] == [
            (Lifecycle.READY, 0, 0.0)
        ] * 2
        assert "/metrics" not in rig.server.asked


async def test_the_mean_time_is_told_of_a_model_that_answers_once_and_not_of_one_that_streams(
    autojump_clock: MockClock,
) -> None:
    autojump_clock.autojump_threshold = 0.02
    async with _rig() as rig:
        await rig.sample()
        page = LOAD
        for before, after in [(b" 609\n", b" 613\n"), (b" 490294059\n", b" 491294059\n"), (b" 38\n", b" 39\n")]:
            page = page.replace(before, after)
        rig.server.answers["/metrics"] = (200, page)
        await trio.sleep(2.0)
        states = await rig.sample()
        assert states["addsub"].ttft_ms == pytest.approx(250.0)
        assert states["tokgen"].ttft_ms == 0.0


async def test_a_model_that_is_not_ready_itself_is_not_ready_whatever_the_index_says() -> None:
    async with _rig() as rig:
        rig.server.answers["/v2/models/addsub/ready"] = (400, b'{"error":"stub gone"}')
        assert await rig.lifecycles() == {"addsub": "unknown", "tokgen": "ready"}
        del rig.server.answers["/v2/models/addsub/ready"]
        assert await rig.lifecycles() == {"addsub": "ready", "tokgen": "ready"}


async def test_a_server_that_calls_itself_not_ready_during_an_unload_keeps_its_models() -> None:
    async with _rig() as rig:
        rig.server.answers["/v2/health/ready"] = (400, b"")
        assert await rig.lifecycles() == {"addsub": "ready", "tokgen": "ready"}
        assert not await rig.adapter.health()


async def test_a_model_that_is_unloaded_is_said_to_be_gone_once() -> None:
    async with _rig() as rig:
        await rig.sample()
        await rig.adapter.unload(ModelName("tokgen"))
        assert await rig.lifecycles() == {"addsub": "ready", "tokgen": "unknown"}
        del rig.server.index["tokgen"]
        assert await rig.lifecycles() == {"addsub": "ready", "tokgen": "unknown"}
        assert await rig.lifecycles() == {"addsub": "ready"}


async def test_a_model_that_is_loaded_comes_up_and_its_config_is_asked_anew() -> None:
    async with _rig() as rig:
        await rig.sample()
        await rig.adapter.load(ModelName("a/b c"))
        assert "/v2/repository/models/a%2Fb%20c/load" in rig.server.asked
        del rig.server.index["a%2Fb%20c"]
        await rig.adapter.unload(ModelName("tokgen"))
        await rig.sample()
        await rig.adapter.load(ModelName("tokgen"))
        assert await rig.lifecycles() == {"addsub": "ready", "tokgen": "ready"}
        assert rig.server.asked.count("/v2/models/tokgen/config") == 2
        assert rig.server.asked.count("/v2/models/addsub/config") == 1


async def test_a_load_that_fails_is_told_in_the_servers_words() -> None:
    async with _rig() as rig:
        rig.server.answers["/v2/repository/models/zzz/load"] = (500, b'{"error":"failed to load \'zzz\'"}')
        with pytest.raises(RuntimeAdapterError, match=r"answered 500, 200 was expected: .*failed to load 'zzz'"):
            await rig.adapter.load(ModelName("zzz"))


async def test_a_server_without_an_index_is_asked_for_the_configured_models_alone() -> None:
    async with _rig(models=("addsub", "absent")) as rig:
        rig.server.answers["/v2/repository/index"] = (404, b"")
        assert await rig.lifecycles() == {"addsub": "ready", "absent": "unknown"}
        assert "/v2/repository/index" not in rig.server.asked
        assert Capability.LOAD not in rig.adapter.capabilities
        with pytest.raises(CapabilityMissingError, match="cannot load other"):
            await rig.adapter.load(ModelName("other"))
        assert [model.name for model in await rig.adapter.list()] == ["addsub", "absent"]


async def test_a_missing_index_without_configured_models_says_which_key_to_set() -> None:
    async with _rig() as rig:
        rig.server.answers["/v2/repository/index"] = (404, b"")
        with pytest.raises(RuntimeAdapterError, match=r"answered 404.*name its models in `models`"):
            await rig.adapter.start()
        assert await rig.sample() == {}
        assert rig.log.names() == ["runtime_unreadable"]


async def test_a_server_that_falls_silent_makes_its_models_unknown_and_not_idle(autojump_clock: MockClock) -> None:
    autojump_clock.autojump_threshold = 0.02
    async with _rig(deadline_s=1.0) as rig:
        await rig.sample()
        rig.server.silent.add("/v2/repository/index")
        for _ in range(2):
            states = await rig.sample()
        assert (states["addsub"].lifecycle, states["addsub"].queue_len) == (Lifecycle.UNKNOWN, 64)
        rig.server.silent.clear()
        assert await rig.lifecycles() == {"addsub": "ready", "tokgen": "ready"}
        assert rig.log.names() == ["runtime_unreadable", "runtime_readable_again"]


@pytest.mark.parametrize("answer", [(500, b""), (200, b"nv_inference_pending_request_count{model=\n")])
async def test_a_metrics_page_that_cannot_be_read_costs_the_load_and_not_the_models(answer: tuple[int, bytes]) -> None:
    async with _rig() as rig:
        await rig.sample()
        rig.server.answers["/metrics"] = answer
        states = await rig.sample()
        assert (states["addsub"].lifecycle, states["addsub"].queue_len) == (Lifecycle.READY, 64)
        rig.server.answers["/metrics"] = (200, LOAD)
        await rig.sample()
        assert rig.log.names() == ["runtime_metrics_unreadable", "runtime_metrics_readable_again"]


async def test_counters_that_run_backwards_are_another_process() -> None:
    async with _rig() as rig:
        before = (await rig.sample())["addsub"].incarnation
        rig.unix_s += 60
        assert (await rig.sample())["addsub"].incarnation == before
        rig.server.answers["/metrics"] = (200, LOAD.replace(b" 609\n", b" 1\n"))
        assert (await rig.sample())["addsub"].incarnation == before + 60_000


async def test_after_a_time_in_which_nobody_listened_it_is_another_process() -> None:
    async with trio.open_nursery() as nursery:
        server = _Server()
        peer: HttpPeer = await nursery.start(serve_http_peer, server.answer)
        rig = _Rig(server, peer, KServeConfig(url=peer.base_url, metrics_url=f"{peer.base_url}/metrics"))
        before = (await rig.sample())["addsub"].incarnation
        rig.unix_s += 60
        nursery.cancel_scope.cancel()
    assert {state.lifecycle for state in (await rig.sample()).values()} == {Lifecycle.UNKNOWN}
    async with trio.open_nursery() as nursery:

        async def serve(*, task_status: trio.TaskStatus[HttpPeer]) -> None:
            await serve_http_peer(server.answer, port=peer.port, task_status=task_status)

        await nursery.start(serve)
        server.answers["/metrics"] = (503, b"")
        assert (await rig.sample())["addsub"].incarnation == before + 60_000
        # Its counters begin anew, which is no second restart.
        server.answers["/metrics"] = (200, LOAD.replace(b" 609\n", b" 1\n"))
        assert (await rig.sample())["addsub"].incarnation == before + 60_000
        await rig.adapter.aclose()
        nursery.cancel_scope.cancel()


async def test_more_models_than_one_sample_asks_are_asked_in_turn() -> None:
    async with _rig(metrics=False) as rig:
        rig.server.index = {f"m{n:02}": "READY" for n in range(READY_ASKED_MAX + 4)}
        for _ in range(2):
            await rig.sample()
        ready = [target for target in rig.server.asked if target.endswith("/ready")]
        assert len(ready) == 2 * READY_ASKED_MAX
        assert len(set(ready)) == READY_ASKED_MAX + 4


async def test_a_kept_connection_that_died_between_two_samples_is_replaced() -> None:
    async with _rig(metrics=False) as rig:
        await rig.sample()
        rig.server.cut.add("/v2/repository/index")
        assert await rig.lifecycles() == {"addsub": "ready", "tokgen": "ready"}
        assert rig.log.events == []


def test_a_config_out_of_bounds_names_the_runtime_and_the_value() -> None:
    for settings in ({"deadline_s": 0.0}, {"slots": 0}, {"models": tuple(f"m{n}" for n in range(257))}):
        config = msgspec.structs.replace(KServeConfig(url="http://t:8000"), **settings)
        with pytest.raises(ValueError, match=r"runtime http://t:8000: .* allowed"):
            config.validate()
