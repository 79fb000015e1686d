"""A replay from start to end against the emulated engine: what is found out about the server before, and the whole."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import click
import pytest
import trio

from infermesh.cli.exits import CommandFailed, Unreachable
from infermesh.cli.replay.ledger import Status
from infermesh.cli.replay.plan import PlanOptions, plan_arrivals
from infermesh.cli.replay.report import make_report
from infermesh.cli.replay.run import RunOptions, find_model, replay
from infermesh.emulator import EmulatorConfig, EmulatorServer, serve_emulator
from infermesh.sim.trace import parse_mooncake
from infermesh.testing.fake_admin import FakeAdmin

TRACE = Path(__file__).parents[2] / "fixtures" / "traces" / "mooncake_conversation_300.jsonl"


@pytest.mark.slow
@pytest.mark.parametrize("chat", [False, True], ids=["completion", "chat"])
async def test_a_replayed_trace_finds_its_prefixes_and_every_request_is_accounted_for(chat: bool) -> None:
    with TRACE.open() as lines:
        trace = parse_mooncake(lines, requests_max=60)
    plan = plan_arrivals(trace, PlanOptions(speed=40.0, output_tokens_max=8))
    async with trio.open_nursery() as nursery:
        server: EmulatorServer = await nursery.start(serve_emulator, EmulatorConfig(speed=100.0))
        result = await replay(plan, RunOptions(target=server.url, chat=chat, prompt_scale=0.25), progress=False)
        stats = server.stats
        nursery.cancel_scope.cancel()
    report = make_report(result.ledger, sent=result.sent, ttft_slo_ms=2_000.0, itl_slo_ms=100.0)
    assert (report.arrived, report.completed, result.interrupted) == (60, 60, False)
    assert (result.model, result.emulated) == ("emulated-8b", True)
    assert stats.completed == 60
    # The text makes the tokens that the trace says; a chat's template adds a few.
    asked = sum(max(1, round(request.prompt_tokens * 0.25)) for request in trace)
    served = stats.models["emulated-8b"].prompt_tokens
    assert served == asked if not chat else asked < served < asked + 60 * 16
    assert report.output_tokens == sum(min(8, request.output_tokens) for request in trace)
    known: set[int] = set()
    repeated = 0
    for request in trace:
        repeated += sum(block in known for block in request.block_ids)
        known.update(request.block_ids)
    hit_blocks = stats.models["emulated-8b"].prefix_hit_tokens / 128
    assert hit_blocks >= 0.9 * repeated, "equal block ids must be found as shared prefixes"


@pytest.mark.slow
async def test_ctrl_c_stops_the_sending_and_what_was_done_is_still_reported() -> None:
    with TRACE.open() as lines:
        plan = plan_arrivals(parse_mooncake(lines, requests_max=300), PlanOptions(speed=20.0, output_tokens_max=2))
    async with trio.open_nursery() as nursery:
        server: EmulatorServer = await nursery.start(serve_emulator, EmulatorConfig(speed=100.0))

        async def interrupt() -> None:
            while server.stats.completed < 3:
                await trio.sleep(0.01)
            os.kill(os.getpid(), signal.SIGINT)

        nursery.start_soon(interrupt)
        result = await replay(plan, RunOptions(target=server.url, prompt_scale=0.05), progress=False)
        nursery.cancel_scope.cancel()
    assert result.interrupted
    assert 3 <= result.sent < 300
    report = make_report(result.ledger, sent=result.sent, ttft_slo_ms=2_000.0, itl_slo_ms=100.0)
    assert report.completed + report.cancelled == report.arrived == result.sent


async def test_the_model_is_the_only_one_listed_or_the_one_named() -> None:
    with FakeAdmin({"/v1/models": {"data": [{"id": "m", "owned_by": "vllm"}]}}) as server:
        assert await find_model(RunOptions(target=server.url)) == ("m", False)
        assert await find_model(RunOptions(target=f"{server.url}/", model="m")) == ("m", False)
        server.put("/v1/models", {"data": [{"id": "a"}, {"id": "b", "owned_by": "infermesh-emulator"}]})
        assert await find_model(RunOptions(target=server.url, model="b")) == ("b", True)
        with pytest.raises(CommandFailed, match="lists 2 models: give --model NAME, one of a, b"):
            await find_model(RunOptions(target=server.url))
        with pytest.raises(CommandFailed, match="lists no model 'c': give --model one of a, b"):
            await find_model(RunOptions(target=server.url, model="c"))


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [(404, b"", "answered 404: give --target"), (200, b"<html>", "is no list of models")],
)
async def test_what_is_no_openai_server_is_said(status: int, body: bytes, words: str) -> None:
    with FakeAdmin() as server:
        server.put("/v1/models", body, status=status)
        with pytest.raises(CommandFailed, match=words):
            await find_model(RunOptions(target=server.url))


async def test_nobody_there_and_no_address_at_all() -> None:
    with FakeAdmin() as server:
        gone = server.url
    with pytest.raises(Unreachable, match="connection refused: start the server there"):
        await replay((), RunOptions(target=gone), progress=False)
    with pytest.raises(click.BadParameter, match="must begin with http"):
        await replay((), RunOptions(target="host:80"), progress=False)


async def test_a_target_that_dies_at_once_is_a_hundred_percent_failed_and_still_adds_up() -> None:
    with FakeAdmin({"/v1/models": {"data": [{"id": "m"}]}}) as server:
        with TRACE.open() as lines:
            plan = plan_arrivals(parse_mooncake(lines, requests_max=5), PlanOptions(speed=1e6))
        result = await replay(plan, RunOptions(target=server.url, prompt_scale=0.01), progress=False)
    # It knows no POST: http.server's answer to that is 501.
    assert result.ledger.settled == {Status.FAILED: 5}
    assert {passage.cause for passage in result.ledger.passages} == {"http 501"}
