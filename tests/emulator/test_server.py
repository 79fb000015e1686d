"""The emulated server over real sockets in virtual time: shapes, timing, limits. Faults: see test_generation.

The captured shapes are from our own run of vLLM 0.32.0 (tests/fixtures/vllm/answers.json).
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable
from pathlib import Path

import h11
import pytest
import trio
from trio.testing import MockClock

from infermesh.core.model.profiles import PROFILES
from infermesh.emulator import EmulatorConfig, EmulatorServer, answer_text
from infermesh.emulator.asks import chat_prompt
from infermesh.testing.h11_client import ClientAnswer, H11Client

Start = Callable[[EmulatorConfig], Awaitable[EmulatorServer]]

TINY = EmulatorConfig(models=("tiny-model",), profile="tiny")
STEP_S = PROFILES["tiny"].step_ms(1, 0) / 1_000

CAPTURED = json.loads((Path(__file__).parents[1] / "fixtures" / "vllm" / "answers.json").read_text())


def _shape(value: object) -> object:
    """The keys in their order and the kinds of values: what a client's parser sees."""
    if isinstance(value, dict):
        return [(key, _shape(inner)) for key, inner in value.items()]
    if isinstance(value, list):
        return [_shape(inner) for inner in value]
    return type(value).__name__


def _body(**fields: object) -> bytes:
    return json.dumps({"model": "tiny-model", **fields}).encode()


async def _post(server: EmulatorServer, path: str, body: bytes, **headers: str) -> ClientAnswer:
    async with await H11Client.dial(server.address) as client:
        return await client.fetch("POST", path, body, tuple(headers.items()))


async def _get(server: EmulatorServer, path: str) -> ClientAnswer:
    async with await H11Client.dial(server.address) as client:
        return await client.fetch("GET", path)


async def _stream(server: EmulatorServer, path: str, body: bytes) -> list[str]:
    async with await H11Client.dial(server.address) as client:
        await client.send("POST", path, body)
        head = await client.head()
        assert head.status_code == 200
        assert (b"content-type", b"text/event-stream; charset=utf-8") in head.headers
        assert (b"transfer-encoding", b"chunked") in head.headers
        return [event async for event in client.events()]


async def test_a_completion_is_whole_and_has_the_captured_shape(start: Start, autojump_clock: MockClock) -> None:
    server = await start(TINY)
    answer = await _post(server, "/v1/completions", _body(prompt="hello", max_tokens=5))
    document = json.loads(answer.body)
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/json"
    assert _shape(document) == _shape(CAPTURED["completion"])
    assert document["choices"][0]["text"] == answer_text(b"hello", 5)
    assert document["choices"][0]["finish_reason"] == "length"
    assert document["usage"]["prompt_tokens"] == 2
    assert document["usage"]["completion_tokens"] == 5


async def test_a_chat_is_whole_and_has_the_captured_shape(start: Start, autojump_clock: MockClock) -> None:
    server = await start(TINY)
    messages = [{"role": "user", "content": "hi fox"}]
    answer = await _post(server, "/v1/chat/completions", _body(messages=messages, max_completion_tokens=4))
    document = json.loads(answer.body)
    assert _shape(document) == _shape(CAPTURED["chat"])
    prompt = chat_prompt([("user", "hi fox")])
    assert document["choices"][0]["message"]["content"] == answer_text(prompt, 4)


async def test_a_chat_without_a_limit_stops_by_itself(start: Start, autojump_clock: MockClock) -> None:
    server = await start(TINY)
    answer = await _post(server, "/v1/chat/completions", _body(messages=[{"role": "user", "content": "hi"}]))
    document = json.loads(answer.body)
    assert document["choices"][0]["finish_reason"] == "stop"
    assert document["usage"]["completion_tokens"] == TINY.chat_tokens_default


async def test_a_streamed_completion_has_the_captured_events(start: Start, autojump_clock: MockClock) -> None:
    server = await start(TINY)
    body = _body(prompt="hello", max_tokens=3, stream=True, stream_options={"include_usage": True})
    *events, last = await _stream(server, "/v1/completions", body)
    documents = [json.loads(event) for event in events]
    first, final, usage = CAPTURED["completion_events"]
    assert [_shape(document) for document in documents] == [
        _shape(first),
        _shape(first),
        _shape(final),
        _shape(usage),
    ]
    assert last == "[DONE]"
    assert "".join(each["choices"][0]["text"] for each in documents[:3]) == answer_text(b"hello", 3)
    assert documents[3]["usage"] == {"prompt_tokens": 2, "total_tokens": 5, "completion_tokens": 3}


async def test_a_streamed_chat_has_the_captured_events(start: Start, autojump_clock: MockClock) -> None:
    server = await start(TINY)
    body = _body(messages=[{"role": "user", "content": "hi fox"}], max_tokens=2, stream=True)
    *events, last = await _stream(server, "/v1/chat/completions", body)
    assert [_shape(json.loads(event)) for event in events] == _shape(CAPTURED["chat_events"])
    assert last == "[DONE]"


async def test_a_stream_of_one_token_is_whole(start: Start, autojump_clock: MockClock) -> None:
    server = await start(TINY)
    for path, fields in (
        ("/v1/completions", {"prompt": "x"}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}]}),
    ):
        events = await _stream(server, path, _body(max_tokens=1, stream=True, **fields))
        assert events[-1] == "[DONE]"
        assert json.loads(events[-2])["choices"][0]["finish_reason"] == "length"


async def test_the_head_of_a_stream_comes_at_once_and_tokens_at_the_pace_of_the_profile(
    start: Start, autojump_clock: MockClock
) -> None:
    server = await start(TINY)
    async with await H11Client.dial(server.address) as client:
        sent_at = trio.current_time()
        await client.send("POST", "/v1/completions", _body(prompt="x" * 400, max_tokens=4, stream=True))
        await client.head()
        assert trio.current_time() == pytest.approx(sent_at)
        arrivals = [trio.current_time() - sent_at async for _ in client.data()]
    profile = PROFILES["tiny"]
    first = profile.least_prefill_ms(100) / 1_000
    assert arrivals[:4] == pytest.approx([first + STEP_S * index for index in range(4)])


async def test_the_head_comes_with_the_first_token_if_so_configured(start: Start, autojump_clock: MockClock) -> None:
    server = await start(EmulatorConfig(models=("tiny-model",), profile="tiny", head_with_first_token=True))
    async with await H11Client.dial(server.address) as client:
        sent_at = trio.current_time()
        await client.send("POST", "/v1/completions", _body(prompt="x", max_tokens=4, stream=True))
        await client.head()
        assert trio.current_time() - sent_at == pytest.approx(PROFILES["tiny"].least_prefill_ms(1) / 1_000)
        assert [event async for event in client.events()][-1] == "[DONE]"


async def test_speed_and_api_delay_shift_the_first_token(start: Start, autojump_clock: MockClock) -> None:
    server = await start(EmulatorConfig(models=("tiny-model",), profile="tiny", speed=0.5, api_delay_s=1.0))
    sent_at = trio.current_time()
    await _post(server, "/v1/completions", _body(prompt="x", max_tokens=1))
    took_s = trio.current_time() - sent_at
    assert took_s == pytest.approx(1.0 + 2 * PROFILES["tiny"].least_prefill_ms(1) / 1_000)


async def test_a_repeated_prompt_hits_the_prefix_cache_unless_its_salt_differs(
    start: Start, autojump_clock: MockClock
) -> None:
    server = await start(TINY)
    prompt = "shared beginning of a long prompt " * 20
    for fields in ({}, {}, {"cache_salt": "other"}):
        await _post(server, "/v1/completions", _body(prompt=prompt, max_tokens=1, **fields))
    stats = server.stats.models["tiny-model"]
    assert stats.prefix_query_tokens == 3 * 170
    assert stats.prefix_hit_tokens == 160


async def test_requests_in_flight_share_the_engines_slots(start: Start, autojump_clock: MockClock) -> None:
    server = await start(EmulatorConfig(models=("tiny-model",), profile="tiny", slots=2))
    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(_post, server, "/v1/completions", _body(prompt="x", max_tokens=100))
        await trio.sleep(10 * STEP_S)
        assert (server.stats.running, server.stats.waiting) == (2, 3)
        load = json.loads((await _get(server, "/load")).body)
        assert load == {"server_load": 5}
    assert server.stats.completed == 5
    assert (server.stats.running, server.stats.waiting, server.stats.connections) == (0, 0, 0)


async def test_a_full_server_refuses_as_vllm_does_and_counts_it(start: Start, autojump_clock: MockClock) -> None:
    server = await start(EmulatorConfig(models=("tiny-model",), profile="tiny", in_flight_max=1))
    async with await H11Client.dial(server.address) as client:
        await client.send("POST", "/v1/completions", _body(prompt="x", max_tokens=100, stream=True))
        await client.head()
        refused = await _post(server, "/v1/completions", _body(prompt="x"))
        assert refused.status == 503
        assert json.loads(refused.body) == CAPTURED["busy"]
        page = (await _get(server, "/metrics")).body
        assert b'admission_rejections_total{model_name="tiny-model",reason="max_num_queued_reqs"} 1.0' in page


@pytest.mark.parametrize(
    ("path", "body", "status", "error"),
    [
        ("/v1/completions", b'{"model": "nope", "prompt": "x"}', 404, "NotFoundError: .*`nope` does not exist"),
        ("/v1/completions", b"not json", 400, "Bad Request: .*json_invalid"),
        ("/v1/completions", _body(prompt="x", max_tokens=9_999), 400, "BadRequestError: .*too large: 9999"),
        ("/v1/completions", _body(prompt="x" * 20_000), 400, "BadRequestError: .*5000 input tokens"),
        ("/v1/nowhere", b"{}", 404, "Not Found: Not Found"),
        ("/v1/models", b"{}", 405, "Method Not Allowed: Method Not Allowed"),
    ],
)
async def test_bad_requests_get_the_error_of_the_api_and_the_connection_goes_on(
    start: Start, autojump_clock: MockClock, path: str, body: bytes, status: int, error: str
) -> None:
    server = await start(TINY)
    async with await H11Client.dial(server.address) as client:
        answer = await client.fetch("POST", path, body)
        found = json.loads(answer.body)["error"]
        assert (answer.status, found["code"]) == (status, status)
        assert re.match(error, f"{found['type']}: {found['message']}")
        assert (await client.fetch("GET", "/health")).status == 200


async def test_embeddings_come_as_floats_and_as_packed_floats(start: Start, autojump_clock: MockClock) -> None:
    server = await start(TINY)
    plain = json.loads((await _post(server, "/v1/embeddings", _body(input=["a", "bcdef"]))).body)
    assert [row["index"] for row in plain["data"]] == [0, 1]
    assert plain["usage"]["prompt_tokens"] == 3
    packed = await _post(server, "/v1/embeddings", _body(input="a", encoding_format="base64"))
    assert isinstance(json.loads(packed.body)["data"][0]["embedding"], str)


async def test_the_small_paths_answer_in_captured_shapes(start: Start, autojump_clock: MockClock) -> None:
    server = await start(TINY)
    for path in ("/health", "/ping"):
        answer = await _get(server, path)
        assert (answer.status, answer.body, answer.headers["content-length"]) == (200, b"", "0")
    assert json.loads((await _get(server, "/version")).body) == {"version": "0.32.0+emulated"}
    assert json.loads((await _get(server, "/is_sleeping")).body) == {"is_sleeping": False}
    tokens = json.loads((await _post(server, "/tokenize", _body(prompt="hello"))).body)
    assert (tokens["count"], len(tokens["tokens"])) == (2, 2)
    assert json.loads((await _post(server, "/reset_prefix_cache", b"")).body) == {"success": True}


async def test_the_models_show_their_limits_and_that_they_are_emulated(start: Start, autojump_clock: MockClock) -> None:
    server = await start(EmulatorConfig(models=("one", "two"), profile="tiny"))
    document = json.loads((await _get(server, "/v1/models")).body)
    rows = document["data"]
    assert _shape(rows[0]) == _shape(CAPTURED["models"]["data"][0])
    assert [row["id"] for row in rows] == ["one", "two"]
    assert {row["owned_by"] for row in rows} == {"infermesh-emulator"}
    assert {row["max_model_len"] for row in rows} == {4_096}


@pytest.mark.parametrize(("given", "kept"), [("abc", True), ('a"b', False), ("", False), ("x" * 200, False)])
async def test_a_clients_plain_request_id_becomes_the_answers_id(
    start: Start, autojump_clock: MockClock, given: str, kept: bool
) -> None:
    server = await start(TINY)
    async with await H11Client.dial(server.address) as client:
        await client.send(
            "POST",
            "/v1/completions",
            _body(prompt="x", max_tokens=1, stream=True),
            [("x-request-id", given)],
        )
        await client.head()
        events = [event async for event in client.events()]
        first = json.loads(events[0])
    assert (first["id"] == f"cmpl-{given}") is kept


async def test_a_lagging_metrics_page_is_renewed_only_after_its_time(start: Start, autojump_clock: MockClock) -> None:
    server = await start(EmulatorConfig(models=("tiny-model",), profile="tiny", metrics_lag_s=5.0))
    before = (await _get(server, "/metrics")).body
    await _post(server, "/v1/completions", _body(prompt="x", max_tokens=3))
    assert (await _get(server, "/metrics")).body == before
    await trio.sleep(5.0)
    assert b"generation_tokens_total" in before
    assert (await _get(server, "/metrics")).body != before


@pytest.mark.parametrize(
    ("wanted", "load"),
    [
        ("JSON", 'JSON {"named_metrics": {"num_requests_waiting": 0.0, "kv_cache_usage_perc": 0.0}}'),
        ("TEXT", "TEXT named_metrics.num_requests_waiting=0.0, named_metrics.kv_cache_usage_perc=0.0"),
    ],
)
async def test_the_load_is_reported_on_the_answer_to_who_asks(
    start: Start, autojump_clock: MockClock, wanted: str, load: str
) -> None:
    server = await start(TINY)
    async with await H11Client.dial(server.address) as client:
        answer = await client.fetch(
            "POST",
            "/v1/completions",
            _body(prompt="x", max_tokens=1),
            [("endpoint-load-metrics-format", wanted)],
        )
    assert answer.headers["endpoint-load-metrics"] == load


async def test_pipelined_requests_are_answered_in_order(start: Start, autojump_clock: MockClock) -> None:
    server = await start(TINY)
    body = _body(prompt="x", max_tokens=3)
    one = b"POST /v1/completions HTTP/1.1\r\nhost: t\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
    stream = await trio.open_tcp_stream(*server.address)
    async with stream:
        await stream.send_all(one + b"GET /version HTTP/1.1\r\nhost: t\r\n\r\n" + one)
        machine = h11.Connection(h11.CLIENT)
        kinds = []
        for _ in range(3):
            machine.send(h11.Request(method="GET", target="/", headers=[("host", "t")]))
            machine.send(h11.EndOfMessage())
            received = b""
            while not isinstance(event := machine.next_event(), h11.EndOfMessage):
                if event is h11.NEED_DATA:
                    machine.receive_data(bytes(await stream.receive_some(65_536)))
                elif isinstance(event, h11.Data):
                    received += event.data
            kinds.append(json.loads(received).get("object", "version"))
            machine.start_next_cycle()
    assert kinds == ["text_completion", "version", "text_completion"]


async def test_a_client_of_http_1_0_reads_the_stream_to_its_end(start: Start, autojump_clock: MockClock) -> None:
    server = await start(TINY)
    body = _body(prompt="x", max_tokens=3, stream=True)
    async with await trio.open_tcp_stream(*server.address) as stream:
        await stream.send_all(b"POST /v1/completions HTTP/1.0\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
        received = b"".join([bytes(piece) async for piece in stream])
    assert b"chunked" not in received
    assert received.endswith(b"}\n\ndata: [DONE]\n\n")


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"nonsense\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\n\r\n", b"400"),  # No host.
        (b"GET / HTTP/1.1\r\nhost: t\r\nx: " + b"y" * 70_000, b"431"),
        (b"POST /v1/completions HTTP/1.1\r\nhost: t\r\ncontent-length: 2000\r\n\r\n" + b"x" * 2_000, b"413"),
    ],
)
async def test_unreadable_and_oversized_requests_are_refused_and_the_connection_closed(
    start: Start, autojump_clock: MockClock, data: bytes, status: bytes
) -> None:
    server = await start(EmulatorConfig(profile="tiny", body_bytes_max=1_000))
    async with await trio.open_tcp_stream(*server.address) as stream:
        await stream.send_all(data)
        received = b"".join([bytes(piece) async for piece in stream])
    assert received.startswith(b"HTTP/1.1 " + status)


async def test_idle_and_slow_clients_are_dropped_in_time(start: Start, autojump_clock: MockClock) -> None:
    server = await start(TINY)
    async with await H11Client.dial(server.address) as idle:
        await idle.fetch("GET", "/health")
        since = trio.current_time()
        assert not await idle.ended()
        assert trio.current_time() - since == pytest.approx(TINY.keep_alive_s)
    async with await H11Client.dial(server.address) as slow:
        await slow.stream.send_all(b"POST /v1/completions HT")
        since = trio.current_time()
        assert not await slow.ended()
        assert trio.current_time() - since == pytest.approx(TINY.receive_timeout_s)
    assert server.stats.connections == 0
