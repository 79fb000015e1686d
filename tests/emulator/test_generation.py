"""What clients see of each fault, and what the engine sees of clients that leave. Virtual time, real sockets."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable

import h11
import pytest
import trio
from trio.testing import MockClock

from infermesh.core.model.profiles import PROFILES
from infermesh.emulator import EmulatorConfig, EmulatorServer, Faults, serve_emulator
from infermesh.testing.h11_client import H11Client

Start = Callable[[EmulatorConfig], Awaitable[EmulatorServer]]

STEP_S = PROFILES["tiny"].step_ms(1, 0) / 1_000
LONG = json.dumps({"prompt": "hello", "max_tokens": 2_000, "stream": True}).encode()
SHORT = json.dumps({"prompt": "hello", "max_tokens": 5, "stream": True}).encode()
UNARY = json.dumps({"prompt": "hello", "max_tokens": 5}).encode()


def _with(**faults: float | bool | None) -> EmulatorConfig:
    switches = Faults()
    switches.change(json.dumps(faults).encode())
    return EmulatorConfig(profile="tiny", faults=switches)


async def _pieces_until_broken(client: H11Client) -> tuple[int, bool]:
    """How many token events came before the connection broke, and whether by a reset."""
    events = 0
    try:
        while (piece := await client.next_data()) is not None:
            events += piece.count(b"data: ")
    except h11.RemoteProtocolError:
        return events, False
    except trio.BrokenResourceError:
        return events, True
    raise AssertionError(f"the stream ended whole after {events} events")


async def _is_clean(server: EmulatorServer) -> bool:
    """Whether all that a request held was given back, at the next step's end."""
    await trio.sleep(2 * STEP_S)
    stats = server.stats
    used = sum(driver.engine.cache.used for driver in server.drivers.values())
    in_flight = sum(driver.in_flight for driver in server.drivers.values())
    return (stats.running, stats.waiting, stats.connections, used, in_flight) == (0, 0, 0, 0, 0)


@pytest.mark.parametrize("way", ["close", "reset"])
async def test_a_client_that_leaves_mid_stream_is_aborted_within_one_step(
    start: Start, autojump_clock: MockClock, way: str
) -> None:
    server = await start(EmulatorConfig(profile="tiny"))
    client = await H11Client.dial(server.address)
    await client.send("POST", "/v1/completions", LONG)
    await client.head()
    await client.next_data()
    assert server.stats.running == 1
    if way == "close":
        await trio.aclose_forcefully(client.stream)
    else:
        client.reset()
    await trio.sleep(STEP_S * 1.01)
    stats = server.stats
    assert (stats.running, stats.aborted_total, stats.completed) == (0, 1, 0)
    assert stats.last_abort_unix_s == stats.aborts[0].unix_s > 0.0
    assert 1 <= stats.aborts[0].tokens < 10
    assert b'finished_reason="abort",model_name="emulated-8b"} 1.0' in server.metrics_text()
    assert await _is_clean(server)


@pytest.mark.parametrize("body", [LONG, UNARY.replace(b"5", b"2000")])
async def test_a_client_that_leaves_before_the_first_token_is_aborted_too(
    start: Start, autojump_clock: MockClock, body: bytes
) -> None:
    server = await start(EmulatorConfig(profile="tiny", slots=1))
    blocker = await H11Client.dial(server.address)
    await blocker.send("POST", "/v1/completions", LONG)
    await blocker.head()
    waiter = await H11Client.dial(server.address)
    await waiter.send("POST", "/v1/completions", body)
    await trio.sleep(3 * STEP_S)
    assert (server.stats.running, server.stats.waiting) == (1, 1)
    await trio.aclose_forcefully(waiter.stream)
    await trio.sleep(STEP_S * 1.01)
    assert (server.stats.running, server.stats.waiting) == (1, 0)
    await trio.aclose_forcefully(blocker.stream)
    assert await _is_clean(server)
    assert server.stats.aborted_total == 2


@pytest.mark.slow
async def test_a_client_that_reads_nothing_is_dropped_before_it_fills_the_memory(
    start: Start, autojump_clock: MockClock
) -> None:
    server = await start(EmulatorConfig(profile="h100", speed=10_000.0, unsent_bytes_max=10_000))
    body = json.dumps({"prompt": "x", "max_tokens": 100_000, "stream": True}).encode()
    async with await H11Client.dial(server.address) as client:
        await client.send("POST", "/v1/completions", body)
        with trio.fail_after(60):
            while not server.stats.aborted_total:
                await trio.sleep(0.001)
    assert await _is_clean(server)


async def test_slow_stretches_every_step(start: Start, autojump_clock: MockClock) -> None:
    server = await start(_with(slow_factor=10.0))
    async with await H11Client.dial(server.address) as client:
        since = trio.current_time()
        await client.fetch("POST", "/v1/completions", UNARY)
        took_s = trio.current_time() - since
    prefill_s = PROFILES["tiny"].least_prefill_ms(2) / 1_000
    assert took_s == pytest.approx(10.0 * (prefill_s + 4 * STEP_S))


async def test_frozen_holds_all_until_it_is_switched_off(start: Start, autojump_clock: MockClock) -> None:
    server = await start(_with(frozen=True))
    async with await H11Client.dial(server.address) as client:
        await client.send("POST", "/v1/completions", SHORT)
        await client.head()
        await trio.sleep(100.0)
        assert server.stats.running == 1
        assert server.stats.models["emulated-8b"].generation_tokens == 0
        server.faults.frozen = False
        assert [event async for event in client.events()][-1] == "[DONE]"


async def test_stuck_never_answers_and_counts_the_client_that_gives_up(start: Start, autojump_clock: MockClock) -> None:
    server = await start(_with(stuck=True, requests_left=1))
    client = await H11Client.dial(server.address)
    await client.send("POST", "/v1/completions", SHORT)
    with trio.move_on_after(60.0) as patience:
        await client.head()
    assert patience.cancelled_caught
    assert (server.stats.running, server.stats.waiting) == (0, 1)
    await trio.aclose_forcefully(client.stream)
    assert await _is_clean(server)
    assert server.stats.aborts[0].stuck
    async with await H11Client.dial(server.address) as second:
        assert (await second.fetch("POST", "/v1/completions", UNARY)).status == 200


async def test_a_sinkhole_answers_500_at_once(start: Start, autojump_clock: MockClock) -> None:
    server = await start(_with(sinkhole_probability=1.0))
    async with await H11Client.dial(server.address) as client:
        since = trio.current_time()
        answer = await client.fetch("POST", "/v1/completions", UNARY)
        assert trio.current_time() == since
        assert (answer.status, json.loads(answer.body)["error"]["code"]) == (500, 500)
        assert (await client.fetch("GET", "/health")).status == 200


async def test_a_garbage_head_is_no_http(start: Start, autojump_clock: MockClock) -> None:
    server = await start(_with(garbage_head=True))
    async with await H11Client.dial(server.address) as client:
        await client.send("POST", "/v1/completions", SHORT)
        with pytest.raises(h11.RemoteProtocolError):
            await client.head()
    assert await _is_clean(server)


@pytest.mark.parametrize("body", [UNARY, SHORT])
async def test_a_delayed_answer_is_silent_that_long_and_then_whole(
    start: Start, autojump_clock: MockClock, body: bytes
) -> None:
    server = await start(_with(answer_delay_s=7.0))
    async with await H11Client.dial(server.address) as client:
        since = trio.current_time()
        await client.send("POST", "/v1/completions", body)
        head = await client.head()
        assert head.status_code == 200
        assert 7.0 <= trio.current_time() - since < 7.1
        received = b"".join([data async for data in client.data()])
        assert received.endswith(b"[DONE]\n\n") or json.loads(received)["usage"]["completion_tokens"] == 5


@pytest.mark.parametrize("body", [UNARY, SHORT])
async def test_a_split_head_comes_in_two_parts_and_the_connection_goes_on(
    start: Start, autojump_clock: MockClock, body: bytes
) -> None:
    server = await start(_with(head_split_s=3.0, requests_left=1))
    async with await H11Client.dial(server.address) as client:
        await client.send("POST", "/v1/completions", body)
        part = bytes(await client.stream.receive_some(65_536))
        assert part.startswith(b"HTTP/1.1 200")
        assert b"\r\n\r\n" not in part
        since = trio.current_time()
        client.machine.receive_data(part)
        await client.head()
        assert trio.current_time() - since == pytest.approx(3.0, abs=0.1)
        assert b"".join([data async for data in client.data()])
        client.machine.start_next_cycle()
        assert (await client.fetch("GET", "/health")).status == 200


async def test_a_client_that_leaves_during_a_delay_is_aborted(start: Start, autojump_clock: MockClock) -> None:
    server = await start(_with(head_split_s=30.0))
    client = await H11Client.dial(server.address)
    await client.send("POST", "/v1/completions", LONG)
    await client.stream.receive_some(65_536)
    await trio.aclose_forcefully(client.stream)
    assert await _is_clean(server)
    assert server.stats.aborted_total == 1


async def test_a_content_length_that_promises_more_ends_early(start: Start, autojump_clock: MockClock) -> None:
    server = await start(_with(content_length_delta=10))
    async with await H11Client.dial(server.address) as client:
        with pytest.raises(h11.RemoteProtocolError, match="received"):
            await client.fetch("POST", "/v1/completions", UNARY)
    assert await _is_clean(server)


async def test_a_content_length_that_promises_less_leaves_a_surplus(start: Start, autojump_clock: MockClock) -> None:
    server = await start(_with(content_length_delta=-10))
    async with await H11Client.dial(server.address) as client:
        answer = await client.fetch("POST", "/v1/completions", UNARY)
        with pytest.raises(json.JSONDecodeError):
            json.loads(answer.body)
        assert len(client.machine.trailing_data[0]) == 10
        assert not await client.ended()


async def test_a_reset_comes_after_the_stated_tokens(start: Start, autojump_clock: MockClock) -> None:
    server = await start(_with(reset_after_tokens=3))
    async with await H11Client.dial(server.address) as client:
        await client.send("POST", "/v1/completions", LONG)
        await client.head()
        assert await _pieces_until_broken(client) == (3, True)
    assert await _is_clean(server)
    assert server.stats.aborted_total == 1


async def test_a_truncated_stream_ends_without_its_last_chunk(start: Start, autojump_clock: MockClock) -> None:
    server = await start(_with(truncate_after_tokens=3))
    async with await H11Client.dial(server.address) as client:
        await client.send("POST", "/v1/completions", SHORT)
        await client.head()
        assert await _pieces_until_broken(client) == (3, False)
    assert await _is_clean(server)


async def test_a_stalled_stream_says_nothing_more_until_the_client_leaves(
    start: Start, autojump_clock: MockClock
) -> None:
    server = await start(_with(stall_after_tokens=2))
    client = await H11Client.dial(server.address)
    await client.send("POST", "/v1/completions", SHORT)
    await client.head()
    for _ in range(2):
        assert (await client.next_data() or b"").count(b"data: ") == 1
    with trio.move_on_after(100.0) as patience:
        await client.next_data()
    assert patience.cancelled_caught
    await trio.aclose_forcefully(client.stream)
    assert await _is_clean(server)


async def test_a_stream_shorter_than_the_fault_is_whole(start: Start, autojump_clock: MockClock) -> None:
    server = await start(_with(reset_after_tokens=5))
    async with await H11Client.dial(server.address) as client:
        await client.send("POST", "/v1/completions", SHORT)
        await client.head()
        assert [event async for event in client.events()][-1] == "[DONE]"


async def _begin_nothing(client: H11Client) -> None:
    await client.stream.send_all(b"")


async def _begin_half_a_head(client: H11Client) -> None:
    await client.stream.send_all(b"POST /v1/compl")


async def _begin_half_a_body(client: H11Client) -> None:
    await client.stream.send_all(b"POST /v1/completions HTTP/1.1\r\nhost: t\r\ncontent-length: 99\r\n\r\n{")


async def _begin_unary(client: H11Client) -> None:
    await client.send("POST", "/v1/completions", UNARY.replace(b"5", b"2000"))


async def _begin_stream(client: H11Client) -> None:
    await client.send("POST", "/v1/completions", LONG)
    await client.head()
    await client.next_data()


@pytest.mark.parametrize(
    ("faults", "begin"),
    [
        ({}, _begin_nothing),
        ({}, _begin_half_a_head),
        ({}, _begin_half_a_body),
        ({}, _begin_unary),
        ({}, _begin_stream),
        ({"frozen": True}, _begin_unary),
        ({"stuck": True}, _begin_unary),
        ({"answer_delay_s": 9.0}, _begin_unary),
        ({"head_split_s": 9.0}, _begin_unary),
        ({"stall_after_tokens": 1}, _begin_stream),
    ],
)
async def test_cancelling_the_server_anywhere_ends_the_connection_and_frees_the_engine(
    nursery: trio.Nursery,
    autojump_clock: MockClock,
    faults: dict[str, float],
    begin: Callable[[H11Client], Awaitable[None]],
) -> None:
    scope = trio.CancelScope()

    async def serve(task_status: trio.TaskStatus[EmulatorServer]) -> None:
        with scope:
            await serve_emulator(_with(**faults), task_status=task_status)

    server: EmulatorServer = await nursery.start(serve)
    async with await H11Client.dial(server.address) as client:
        await begin(client)
        await trio.sleep(3 * STEP_S)
        assert server.stats.connections == 1
        scope.cancel()
        await client.ended()
    driver = server.drivers["emulated-8b"]
    driver.engine.settle()
    assert (server.stats.connections, driver.in_flight) == (0, 0)
    assert driver.engine.idle
    assert driver.engine.cache.used == 0


@pytest.mark.parametrize("after_tokens", [None, 2])
async def test_a_crash_resets_every_client_and_refuses_new_ones(
    start: Start, autojump_clock: MockClock, after_tokens: int | None
) -> None:
    server = await start(_with(crash_after_tokens=after_tokens))
    async with await H11Client.dial(server.address) as bystander, await H11Client.dial(server.address) as client:
        await bystander.fetch("GET", "/health")
        await client.send("POST", "/v1/completions", LONG)
        await client.head()
        if after_tokens is None:
            await client.next_data()
            server.crash()
        assert (await _pieces_until_broken(client))[1]
        assert await bystander.ended()
    with pytest.raises(OSError, match="all attempts to connect"):
        await H11Client.dial(server.address)
    assert server.crashed.is_set()
    again = await start(EmulatorConfig(profile="tiny", port=server.address[1]))
    assert again.address == server.address
    assert again.started_unix_s > server.started_unix_s
    assert again.stats.aborted_total == 0


async def test_faults_are_switched_and_read_over_http(start: Start, autojump_clock: MockClock) -> None:
    server = await start(EmulatorConfig(profile="tiny"))
    async with await H11Client.dial(server.address) as client:
        changed = await client.fetch("POST", "/emulator/faults", b'{"slow_factor": 3, "requests_left": 2}')
        assert json.loads(changed.body)["slow_factor"] == 3.0
        assert server.faults == Faults(slow_factor=3.0, requests_left=2)
        refused = await client.fetch("POST", "/emulator/faults", b'{"slow": 3}')
        assert refused.status == 400
        assert "the switches are" in json.loads(refused.body)["error"]["message"]
        await client.fetch("DELETE", "/emulator/faults")
        assert json.loads((await client.fetch("GET", "/emulator/faults")).body)["slow_factor"] == 1.0
        assert server.faults == Faults()


async def test_the_faults_of_a_config_are_copied(start: Start, autojump_clock: MockClock) -> None:
    config = _with(slow_factor=2.0)
    server = await start(config)
    server.faults.slow_factor = 9.0
    assert config.faults.slow_factor == 2.0


async def test_stats_over_http_are_the_servers_own(start: Start, autojump_clock: MockClock) -> None:
    server = await start(EmulatorConfig(profile="tiny"))
    async with await H11Client.dial(server.address) as client:
        await client.fetch("POST", "/v1/completions", UNARY)
        stats = json.loads((await client.fetch("GET", "/emulator/stats")).body)
    assert (stats["emulated"], stats["completed"], stats["connections"]) == (True, 1, 1)
    assert stats["models"]["emulated-8b"]["generation_tokens"] == 5
