from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from infermesh.core.model.names import ModelName, NodeId
from infermesh.core.model.state import Lifecycle, ModelState
from infermesh.planes.signal.adapters.runtime.port import Capability, CapabilityMissingError, RuntimeAdapterError
from infermesh.planes.signal.adapters.runtime.vllm import VllmAdapter, VllmConfig
from infermesh.testing.http_peer import HttpPeer, PeerRequest, PeerResponse, serve_http_peer
from infermesh.testing.recorded_log import RecordedLog

CAPTURES = Path(__file__).parents[4] / "fixtures" / "vllm"
IDLE = (CAPTURES / "metrics_idle.txt").read_bytes()
LOAD = (CAPTURES / "metrics_load.txt").read_bytes()
MODELS = (CAPTURES / "models.json").read_bytes()
MODELS_LORA = (CAPTURES / "models_lora.json").read_bytes()
NODE = NodeId("gpu-a")


class _Runtime:
    """A vLLM that answers from its captures, until told otherwise."""

    def __init__(self) -> None:
        self.answers: dict[str, tuple[int, bytes]] = {
            "/metrics": (200, LOAD),
            "/health": (200, b""),
            "/v1/models": (200, MODELS),
        }
        self.asked: list[str] = []
        self.silent: set[str] = set()
        self.cut: set[str] = set()

    async def answer(self, request: PeerRequest, response: PeerResponse) -> None:
        self.asked.append(request.target)
        if request.target in self.silent:
            await trio.sleep_forever()
        status, body = self.answers[request.target]
        if request.target in self.cut:
            head = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body)
            await response.send_raw(head + body[: len(body) // 2])
            await response.abort()
        await response.send(body, status=status)


class _Rig:
    def __init__(self, runtime: _Runtime, peer: HttpPeer, config: VllmConfig) -> None:
        self.runtime = runtime
        self.peer = peer
        self.log = RecordedLog()
        self.unix_s = 1_795_500_000.0
        self.adapter = VllmAdapter(config, NODE, self.log, unix_time=lambda: self.unix_s)

    async def sample_one(self) -> ModelState:
        (state,) = await self.adapter.sample()
        return state


@asynccontextmanager
async def _rig(*, deadline_s: float = 2.0, list_every_s: float = 10.0) -> AsyncIterator[_Rig]:
    runtime = _Runtime()
    async with trio.open_nursery() as nursery:
        peer: HttpPeer = await nursery.start(serve_http_peer, runtime.answer)
        config = VllmConfig(url=peer.base_url, slots=8, deadline_s=deadline_s, list_every_s=list_every_s)
        rig = _Rig(runtime, peer, config)
        try:
            yield rig
        finally:
            await rig.adapter.aclose()
            nursery.cancel_scope.cancel()


async def test_a_sample_of_the_real_page_is_the_state_of_its_model() -> None:
    async with _rig() as rig:
        await rig.adapter.start()
        assert await rig.sample_one() == ModelState(
            node=NODE,
            model=ModelName("tiny"),
            runtime="vllm",
            incarnation=1795483664820,
            sequence=1_795_500_000_000,
            source_time=1_795_500_000.0,
            lifecycle=Lifecycle.READY,
            queue_len=8,
            running=8,
            slots=8,
            kv_usage=0.0003967406231879522,
            kv_capacity_tokens=1_048_576,
            context_tokens_max=1024,
        )
        assert rig.log.events == []
        assert rig.adapter.kind == "vllm"


async def test_sequences_grow_and_one_connection_carries_all_samples() -> None:
    async with _rig() as rig:
        states = [await rig.sample_one() for _ in range(5)]
        assert [state.sequence - states[0].sequence for state in states] == [0, 1, 2, 3, 4]
        assert rig.peer.connections == 1


async def test_health_and_list_are_asked_at_their_own_slower_pace(autojump_clock: MockClock) -> None:
    autojump_clock.autojump_threshold = 0.02
    async with _rig() as rig:
        for _ in range(11):
            await rig.adapter.sample()
            await trio.sleep(0.5)
        asked = rig.runtime.asked
        assert (asked.count("/metrics"), asked.count("/health"), asked.count("/v1/models")) == (11, 6, 1)


async def test_means_and_rates_come_from_the_difference_between_samples(autojump_clock: MockClock) -> None:
    autojump_clock.autojump_threshold = 0.02
    async with _rig() as rig:
        await rig.adapter.sample()
        page = LOAD.replace(
            b'vllm:time_to_first_token_seconds_count{engine="0",model_name="tiny"} 48.0',
            b'vllm:time_to_first_token_seconds_count{engine="0",model_name="tiny"} 52.0',
        ).replace(b"69.82743573188782", b"70.82743573188782")
        page = page.replace(
            b'vllm:generation_tokens_total{engine="0",model_name="tiny"} 2224.0',
            b'vllm:generation_tokens_total{engine="0",model_name="tiny"} 2264.0',
        )
        rig.runtime.answers["/metrics"] = (200, page)
        await trio.sleep(2.0)
        state = await rig.sample_one()
        assert state.ttft_ms == pytest.approx(250.0)
        assert state.generation_tokens_per_s == pytest.approx(20.0, rel=0.05)
        assert (state.itl_ms, state.prompt_tokens_per_s, state.prefix_hit_rate) == (0.0, 0.0, 0.0)


async def test_the_emulated_engine_is_reported_as_emulated() -> None:
    async with _rig() as rig:
        rig.runtime.answers["/v1/models"] = (
            200,
            MODELS.replace(b'"owned_by":"vllm"', b'"owned_by":"infermesh-emulator"'),
        )
        assert (await rig.sample_one()).runtime == "emulated"
        assert rig.adapter.kind == "emulated"


async def test_a_lora_adapter_and_a_second_name_share_the_load_of_their_engine() -> None:
    async with _rig() as rig:
        rig.runtime.answers["/v1/models"] = (200, MODELS_LORA.replace(b'"id":"tiny"', b'"id":"alias"'))
        states = await rig.adapter.sample()
        assert [(state.model, state.running, state.lifecycle) for state in states] == [
            ("alias", 8, Lifecycle.READY),
            ("ad1", 8, Lifecycle.READY),
        ]


async def test_a_model_that_was_unloaded_is_told_as_unknown_once_and_then_no_more(autojump_clock: MockClock) -> None:
    autojump_clock.autojump_threshold = 0.02
    async with _rig() as rig:
        rig.runtime.answers["/v1/models"] = (200, MODELS_LORA)
        assert len(await rig.adapter.sample()) == 2
        rig.runtime.answers["/v1/models"] = (200, MODELS)
        await trio.sleep(10.0)
        last, gone = await rig.adapter.sample()
        assert (last.model, last.lifecycle, gone.model, gone.lifecycle) == (
            "tiny",
            Lifecycle.READY,
            "ad1",
            Lifecycle.UNKNOWN,
        )
        assert len(await rig.adapter.sample()) == 1


async def test_a_model_that_the_page_knows_before_the_list_is_looked_up_soon(autojump_clock: MockClock) -> None:
    autojump_clock.autojump_threshold = 0.02
    async with _rig(list_every_s=1000.0) as rig:
        await rig.adapter.sample()
        rig.runtime.answers["/metrics"] = (200, LOAD.replace(b'model_name="tiny"', b'model_name="next"'))
        rig.runtime.answers["/v1/models"] = (200, MODELS.replace(b'"id":"tiny"', b'"id":"next"'))
        for _ in range(4):
            await trio.sleep(0.5)
            states = await rig.adapter.sample()
        assert [state.model for state in states] == ["next"]
        assert rig.runtime.asked.count("/v1/models") == 2


async def _break_with_status(rig: _Rig) -> None:
    rig.runtime.answers["/metrics"] = (500, b"oops")


async def _break_with_garbage(rig: _Rig) -> None:
    rig.runtime.answers["/metrics"] = (200, b"<html>It works!</html>")


async def _break_with_nonsense(rig: _Rig) -> None:
    rig.runtime.answers["/metrics"] = (200, LOAD.replace(b'model_name="tiny"} 8.0', b'model_name="tiny"} NaN'))


async def _break_with_half_a_page(rig: _Rig) -> None:
    rig.runtime.cut.add("/metrics")


async def _break_with_silence(rig: _Rig) -> None:
    rig.runtime.silent.add("/metrics")


async def _break_with_a_flood(rig: _Rig) -> None:
    rig.runtime.answers["/metrics"] = (200, b"# " + b"x" * 5 * 2**20)


async def _break_the_list(rig: _Rig) -> None:
    rig.runtime.answers["/v1/models"] = (200, b"[]")
    await trio.sleep(11.0)


BREAKAGES = [
    _break_with_status,
    _break_with_garbage,
    _break_with_nonsense,
    _break_with_half_a_page,
    _break_with_silence,
    _break_with_a_flood,
    _break_the_list,
]


@pytest.mark.parametrize("breakage", BREAKAGES)
async def test_a_runtime_that_answers_wrongly_is_unknown_and_keeps_its_last_load(
    breakage: object, autojump_clock: MockClock
) -> None:
    autojump_clock.autojump_threshold = 0.05
    assert callable(breakage)
    async with _rig() as rig:
        good = await rig.sample_one()
        healthy = dict(rig.runtime.answers)
        await breakage(rig)
        bad = [await rig.sample_one() for _ in range(3)]
        assert {state.lifecycle for state in bad} == {Lifecycle.UNKNOWN}
        assert {(state.running, state.queue_len) for state in bad} == {(8, 8)}
        assert [state.sequence > good.sequence for state in bad] == [True, True, True]
        # Said once, not at each sample.
        (said,) = rig.log.fields_of("runtime_unreadable")
        assert rig.peer.base_url in str(said["url"])
        rig.runtime.answers, rig.runtime.silent, rig.runtime.cut = healthy, set(), set()
        assert (await rig.sample_one()).lifecycle is Lifecycle.READY
        assert len(rig.log.fields_of("runtime_readable_again")) == 1


async def test_a_silent_runtime_costs_no_more_than_the_deadline(autojump_clock: MockClock) -> None:
    autojump_clock.autojump_threshold = 0.05
    async with _rig(deadline_s=0.5) as rig:
        await rig.adapter.sample()
        rig.runtime.silent |= {"/metrics", "/health", "/v1/models"}
        for _ in range(2):
            began = trio.current_time()
            await rig.adapter.sample()
            assert trio.current_time() - began == pytest.approx(0.5, abs=0.05)


async def test_a_runtime_that_says_it_is_ill_has_failed() -> None:
    async with _rig() as rig:
        rig.runtime.answers["/health"] = (503, b"")
        await rig.adapter.start()
        assert (await rig.sample_one()).lifecycle is Lifecycle.FAILED
        assert not await rig.adapter.health()
        assert "/health: answered 503" in str(rig.log.fields_of("runtime_unreadable")[0]["reason"])


async def test_a_runtime_that_is_not_there_gives_no_state_and_start_says_so() -> None:
    async with _rig() as rig:
        adapter = VllmAdapter(VllmConfig(url="http://127.0.0.1:1"), NODE, rig.log)
        with pytest.raises(RuntimeAdapterError, match="refused"):
            await adapter.start()
        assert await adapter.sample() == ()
        await adapter.aclose()


async def test_a_model_that_was_listed_but_never_read_is_unknown() -> None:
    async with _rig() as rig:
        rig.runtime.answers["/metrics"] = (404, b"")
        await rig.adapter.start()
        state = await rig.sample_one()
        assert (state.model, state.lifecycle) == ("tiny", Lifecycle.UNKNOWN)


async def test_an_engine_that_sleeps_is_not_ready_though_its_health_is_fine() -> None:
    async with _rig() as rig:
        rig.runtime.answers["/metrics"] = (
            200,
            LOAD.replace(b'sleep_state="awake"} 1.0', b'sleep_state="awake"} 0.0'),
        )
        assert (await rig.sample_one()).lifecycle is Lifecycle.UNKNOWN
        assert rig.log.fields_of("runtime_unreadable")[0]["reason"] == "asleep: tiny"


async def test_a_renamed_metric_is_one_clear_warning_that_names_it() -> None:
    async with _rig() as rig:
        rig.runtime.answers["/metrics"] = (200, LOAD.replace(b"vllm:kv_cache_usage_perc", b"vllm:kv_usage_ratio"))
        states = [await rig.sample_one() for _ in range(3)]
        assert {(state.lifecycle, state.kv_usage) for state in states} == {(Lifecycle.READY, 0.0)}
        assert rig.log.fields_of("runtime_metric_missing") == [
            {"subject": "vllm:kv_cache_usage_perc", "url": rig.peer.base_url}
        ]


async def test_without_the_queue_length_nobody_is_called_idle() -> None:
    async with _rig() as rig:
        rig.runtime.answers["/metrics"] = (200, IDLE.replace(b"vllm:num_requests_waiting{", b"vllm:waiting{"))
        assert (await rig.sample_one()).lifecycle is Lifecycle.UNKNOWN
        assert rig.log.fields_of("runtime_metric_missing")[0]["subject"] == "vllm:num_requests_waiting"
        assert "vllm:num_requests_waiting" in str(rig.log.fields_of("runtime_unreadable")[0]["reason"])


async def test_a_restarted_engine_is_another_incarnation_and_its_counters_begin_anew() -> None:
    async with _rig() as rig:
        first = await rig.sample_one()
        restarted = IDLE.replace(b"1.79548366482e+09", b"1.79548999999e+09")
        rig.runtime.answers["/metrics"] = (200, restarted)
        second = await rig.sample_one()
        assert (first.incarnation, second.incarnation) == (1795483664820, 1795489999990)
        assert second.generation_tokens_per_s == 0.0


async def test_counters_that_fall_are_a_restart_also_when_the_page_has_no_start_time() -> None:
    async with _rig() as rig:
        rig.runtime.answers["/metrics"] = (200, LOAD.replace(b"process_start_time_seconds", b"started"))
        first = await rig.sample_one()
        rig.unix_s += 5.0
        rig.runtime.answers["/metrics"] = (200, IDLE.replace(b"process_start_time_seconds", b"started"))
        second = await rig.sample_one()
        assert (first.incarnation, second.incarnation) == (1_795_500_000_000, 1_795_500_005_000)


async def test_loading_is_not_offered_and_says_so() -> None:
    async with _rig() as rig:
        assert rig.adapter.capabilities == {Capability.SAMPLE, Capability.LIST, Capability.HEALTH}
        with pytest.raises(CapabilityMissingError, match="serves the model it was started with"):
            await rig.adapter.load(ModelName("other"))
        with pytest.raises(CapabilityMissingError, match="keeps the model it was started with"):
            await rig.adapter.unload(ModelName("tiny"))


async def test_a_cancelled_sample_leaves_no_connection_and_the_next_one_works() -> None:
    async with _rig() as rig:
        await rig.adapter.sample()
        for checkpoints in range(30):
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(_cancel_after, checkpoints, scope)
                    await rig.adapter.sample()
        assert (await rig.sample_one()).lifecycle is Lifecycle.READY
        await rig.adapter.aclose()
        with trio.fail_after(5):
            await rig.peer.wait_nobody()


async def _cancel_after(checkpoints: int, scope: trio.CancelScope) -> None:
    for _ in range(checkpoints):
        await trio.lowlevel.checkpoint()
    scope.cancel()


@pytest.mark.parametrize(
    ("config", "why"),
    [
        (VllmConfig(url="http://a", deadline_s=0.0), "deadline_s is 0.0"),
        (VllmConfig(url="http://a", window_s=float("nan")), "window_s is nan"),
        (VllmConfig(url="http://a", slots=0), "slots is 0"),
    ],
)
def test_a_config_that_cannot_work_names_the_setting(config: VllmConfig, why: str) -> None:
    with pytest.raises(ValueError, match=f"runtime http://a: {why}"):
        config.validate()
