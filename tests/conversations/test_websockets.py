"""Inference over WebSocket through a mesh: tokens, cancellation down to the engine, refusals, and every ending."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from infermesh.emulator import EmulatorConfig
from infermesh.testing.bystander import unharmed
from infermesh.testing.certificates import TrustDomain
from infermesh.testing.completions import completion_body, expected_text
from infermesh.testing.mesh import Mesh, running_mesh
from infermesh.testing.mesh_plan import MODEL, GpuPlan, MeshPlan
from infermesh.testing.waiting import wait_until
from infermesh.testing.websocket_client import RawWebSocket
from infermesh.testing.websocket_frames import BINARY, CLOSE, TEXT, close_payload, upgrade_request

PATH = b"/v1/completions"
Message = dict[str, Any]
CANCELLED = {
    f"edge inferences {MODEL} emulated gpu-a cancelled": 1,
    "edge upstream_attempts gpu-a cancelled": 1,
    "edge cancelled_upstream gpu-a client_gone": 1,
    "gpu-a upstream_attempts gpu-a cancelled": 1,
    "gpu-a cancelled_upstream gpu-a client_gone": 1,
}


class Talk:
    """A client's side of one WebSocket, in messages."""

    def __init__(self, socket: RawWebSocket) -> None:
        self.socket = socket

    async def say(self, **value: object) -> None:
        await self.socket.say(TEXT, json.dumps(value).encode())

    async def ask(self, prompt: str = "hello", tokens: int = 4, model: str = MODEL) -> None:
        await self.say(model=model, prompt=prompt, max_tokens=tokens)

    async def hear(self) -> Message:
        frame = await self.socket.read()
        assert frame is not None, "the connection ended"
        assert frame.opcode == TEXT, frame
        value: Message = json.loads(frame.payload)
        return value

    async def answer(self) -> tuple[str, Message]:
        """The text of the tokens up to the last message, and that."""
        text = ""
        while True:
            message = await self.hear()
            if message["object"].startswith("infermesh.") and message.get("final", True):
                return text, message
            text += message["choices"][0]["text"]

    async def close_code(self) -> int:
        """How the server ends it."""
        frame = await self.socket.read()
        assert frame is not None
        return frame.close_code


@asynccontextmanager
async def talking(mesh: Mesh, *lines: bytes, path: bytes = PATH) -> AsyncGenerator[Talk, None]:
    with trio.fail_after(20):
        async with await RawWebSocket.dial(mesh.router.client_address, path, *lines) as socket:
            yield Talk(socket)


async def test_tokens_come_as_messages_and_the_last_one_says_where_from(trust: TrustDomain) -> None:
    async with running_mesh(trust=trust) as mesh, unharmed(mesh, counted={}), talking(mesh) as talk:
        for prompt in ("hello", "again"):
            await talk.ask(prompt)
            text, last = await talk.answer()
            assert text == expected_text(prompt, 4)
            assert (last["object"], last["node"], last["attempts"]) == ("infermesh.done", "gpu-a", 1)
            assert len(last["request_id"]) == 32
        closing = await talk.socket.close()
        assert closing is not None
        assert closing.close_code == 1000


async def test_a_chat_streams_on_its_own_path(trust: TrustDomain) -> None:
    async with running_mesh(trust=trust) as mesh, talking(mesh, path=b"/v1/chat/completions") as talk:
        await talk.say(model=MODEL, messages=[{"role": "user", "content": "hi"}], max_tokens=3)
        events = [await talk.hear() for _ in range(5)]
        assert [event["object"] for event in events] == ["chat.completion.chunk"] * 4 + ["infermesh.done"]


async def test_a_cancel_ends_the_request_on_the_engine_and_the_next_one_follows(trust: TrustDomain) -> None:
    async with running_mesh(trust=trust) as mesh, unharmed(mesh, counted=CANCELLED), talking(mesh) as talk:
        driver = mesh.engine.server.drivers[MODEL]
        await talk.ask(tokens=2_000)
        await talk.hear()
        await talk.say(type="cancel")
        _, last = await talk.answer()
        assert (last["object"], last["cancelled"], last["node"]) == ("infermesh.done", True, "gpu-a")
        await wait_until(lambda: driver.aborts, "the engine was told")
        await talk.ask("next")
        assert (await talk.answer())[0] == expected_text("next", 4)


async def test_a_cancel_before_the_first_token_does_the_same(trust: TrustDomain) -> None:
    counted = {name.replace("emulated gpu-a", "- -"): count for name, count in CANCELLED.items()}
    async with running_mesh(trust=trust) as mesh, unharmed(mesh, counted=counted), talking(mesh) as talk:
        mesh.engine.faults.frozen = True
        driver = mesh.engine.server.drivers[MODEL]
        await talk.ask()
        await wait_until(lambda: driver.in_flight, "the request is with the engine")
        await talk.say(type="cancel")
        _, last = await talk.answer()
        assert last["cancelled"]
        assert last["node"] is None
        await wait_until(lambda: driver.aborts, "the engine was told")
        mesh.engine.faults.frozen = False


@pytest.mark.parametrize("way", ["close frame", "closed connection", "no pong"])
async def test_a_client_that_leaves_inside_its_stream_aborts_it_on_the_engine(trust: TrustDomain, way: str) -> None:
    dead = way == "no pong"
    # A stream is life too: only a client that is asked, and silent, is dead.
    settings = {"websocket.ping_interval_s": "0.2", "websocket.ping_timeout_s": "0.2"} if dead else {}
    counted = {**CANCELLED, **({"edge bad_requests client no_pong": 1} if dead else {})}
    plan = MeshPlan(router=settings)
    async with running_mesh(plan, trust=trust) as mesh, unharmed(mesh, counted=counted), talking(mesh) as talk:
        driver = mesh.engine.server.drivers[MODEL]
        await talk.ask(tokens=2_000)
        await talk.hear()
        if way == "close frame":
            await talk.socket.say(CLOSE, close_payload(1000))
        elif way == "closed connection":
            await talk.socket.stream.aclose()
        await wait_until(lambda: driver.aborts, "the engine was told")


async def test_a_second_request_is_refused_while_one_runs_and_the_first_goes_on(trust: TrustDomain) -> None:
    async with running_mesh(trust=trust) as mesh, unharmed(mesh, counted={}), talking(mesh) as talk:
        mesh.engine.faults.frozen = True
        await talk.ask("first")
        await talk.ask("second")
        refused = await talk.hear()
        assert (refused["error"]["code"], refused["error"]["status"]) == ("request_under_way", 409)
        assert (refused["final"], refused["request_id"]) == (False, None)
        mesh.engine.faults.frozen = False
        text, last = await talk.answer()
        assert (text, last["object"]) == (expected_text("first", 4), "infermesh.done")


async def test_a_cancel_that_comes_too_late_is_nothing(trust: TrustDomain) -> None:
    async with running_mesh(trust=trust) as mesh, unharmed(mesh, counted={}), talking(mesh) as talk:
        await talk.say(type="cancel")
        await talk.ask()
        assert (await talk.answer())[0] == expected_text("hello", 4)


@pytest.mark.parametrize(
    ("message", "status", "code", "counted"),
    [
        ("nonsense", 400, "invalid_json", "not_json"),
        ("[]", 400, "invalid_body", "not_json"),
        ('{"model":"nobody"}', 404, "model_not_found", "unknown_model"),
        ('{"model":"emulated-8b","stream":false}', 400, "invalid_stream", ""),
        ('{"type":"ask"}', 400, "unknown_type", ""),
    ],
)
async def test_a_message_that_is_no_good_request_is_answered_with_https_error(
    trust: TrustDomain, message: str, status: int, code: str, counted: str
) -> None:
    grown = {f"edge bad_requests client {counted}": 1} if counted else {}
    async with running_mesh(trust=trust) as mesh, unharmed(mesh, counted=grown), talking(mesh) as talk:
        await talk.socket.say(TEXT, message.encode())
        error = (await talk.hear())["error"]
        assert (error["status"], error["code"]) == (status, code)
        await talk.ask()
        assert (await talk.answer())[1]["object"] == "infermesh.done"


async def test_a_runtimes_own_refusal_is_passed_on(trust: TrustDomain) -> None:
    counted = {
        f"edge inferences {MODEL} emulated gpu-a client_error": 1,
        "edge upstream_attempts gpu-a client_error": 1,
        "gpu-a upstream_attempts gpu-a client_error": 1,
    }
    async with running_mesh(trust=trust) as mesh, unharmed(mesh, counted=counted), talking(mesh) as talk:
        await talk.ask(tokens=0)
        _, last = await talk.answer()
        assert last["error"]["status"] == 400
        assert "max_tokens must be at least 1" in last["error"]["message"]
        assert last["error"]["param"] == "max_tokens"


async def test_a_full_fleet_says_when_to_come_back_and_the_websocket_stays(trust: TrustDomain) -> None:
    engine = EmulatorConfig(models=(MODEL,), profile="tiny", slots=1)
    plan = MeshPlan(gpus=[GpuPlan(engines=[engine])], router={"admission.queue_len_max": "0"})
    counted = {f"edge requests_rejected {MODEL} queue_full": 1}
    async with (
        running_mesh(plan, trust=trust) as mesh,
        unharmed(mesh, counted=counted),
        talking(mesh) as first,
        talking(mesh) as second,
    ):
        mesh.engine.faults.frozen = True
        await first.ask("first")
        await wait_until(lambda: mesh.engine.server.drivers[MODEL].in_flight, "the slot is taken")
        await second.ask("second")
        _, last = await second.answer()
        assert (last["error"]["status"], last["error"]["code"]) == (429, "queue_full")
        assert last["error"]["retry_after_s"] > 0
        mesh.engine.faults.frozen = False
        assert (await first.answer())[0] == expected_text("first", 4)
        await second.ask("second")
        assert (await second.answer())[0] == expected_text("second", 4)


async def test_a_slow_node_is_hedged_and_its_copy_cancelled(trust: TrustDomain) -> None:
    engine = GpuPlan(engines=[EmulatorConfig(models=(MODEL,), profile="tiny")])
    plan = MeshPlan(gpus=[engine, engine], router={"hedging.floor_ms": "25"}, bystander=None)
    async with running_mesh(plan, trust=trust) as mesh, talking(mesh) as talk:
        engines = [engines[0] for engines in mesh.engines]
        for each in engines:
            each.faults.frozen = True
        await talk.ask()
        drivers = [each.server.drivers[MODEL] for each in engines]
        await wait_until(lambda: any(driver.in_flight for driver in drivers), "the first copy is with an engine")
        first = 0 if drivers[0].in_flight else 1
        await wait_until(lambda: all(driver.in_flight for driver in drivers), "the second copy is with the other")
        engines[1 - first].faults.frozen = False
        text, last = await talk.answer()
        assert text == expected_text("hello", 4)
        assert (last["attempts"], last["node"]) == (2, mesh.gpus[1 - first].name)
        engines[first].faults.frozen = False
        await wait_until(lambda: drivers[first].aborts, "the loser was cancelled")


async def test_a_stream_that_breaks_off_ends_with_an_error_and_the_websocket_stays(trust: TrustDomain) -> None:
    counted = {
        f"edge inferences {MODEL} emulated gpu-a failed": 1,
        "edge upstream_attempts gpu-a broken": 1,
        "gpu-a upstream_attempts gpu-a broken": 1,
    }
    async with running_mesh(trust=trust) as mesh, unharmed(mesh, counted=counted), talking(mesh) as talk:
        mesh.engine.faults.reset_after_tokens = 3
        mesh.engine.faults.requests_left = 1
        await talk.ask(tokens=8)
        tokens, last = 0, await talk.hear()
        while "error" not in last:
            tokens, last = tokens + 1, await talk.hear()
        assert tokens
        # The GPU node's own last words come first, in the stream; the router's end the request.
        while last.get("final") is not True:
            last = await talk.hear()
        assert (last["error"]["code"], last["error"]["status"]) == ("stream_broken", 502)
        await talk.ask()
        assert (await talk.answer())[0] == expected_text("hello", 4)


async def test_a_binary_message_closes_it_with_1003(trust: TrustDomain) -> None:
    async with running_mesh(trust=trust) as mesh, unharmed(mesh, counted={}), talking(mesh) as talk:
        await talk.socket.say(BINARY, completion_body())
        assert await talk.close_code() == 1003


async def test_a_node_that_stops_says_1001_at_once_or_after_the_request_under_way(trust: TrustDomain) -> None:
    async with running_mesh(trust=trust) as mesh, talking(mesh) as idle, talking(mesh) as busy:
        mesh.engine.faults.frozen = True
        await busy.ask()
        await wait_until(lambda: mesh.engine.server.drivers[MODEL].in_flight, "the request is with the engine")
        mesh.router.node.stop()
        assert await idle.close_code() == 1001
        mesh.engine.faults.frozen = False
        assert (await busy.answer())[0] == expected_text("hello", 4)
        assert await busy.close_code() == 1001
        await wait_until(lambda: not mesh.router.running, "the router has stopped")


async def test_more_websockets_than_allowed_are_closed_with_1013(trust: TrustDomain) -> None:
    plan = MeshPlan(router={"websocket.connections_max": "1"})
    async with running_mesh(plan, trust=trust) as mesh, unharmed(mesh, counted={}):
        async with talking(mesh) as first, talking(mesh) as second:
            assert await second.close_code() == 1013
            await first.ask()
            assert (await first.answer())[1]["object"] == "infermesh.done"
            await first.socket.close()
        async with talking(mesh) as third:
            await third.ask()
            assert (await third.answer())[1]["object"] == "infermesh.done"


async def _status(mesh: Mesh, *lines: bytes, path: bytes = PATH, without: bytes = b"") -> bytes:
    async with await trio.open_tcp_stream(*mesh.router.client_address) as stream:
        await stream.send_all(upgrade_request(path, *lines, without=without))
        return bytes(await stream.receive_some()).split(b" ", 2)[1]


async def test_a_page_of_another_host_needs_leave(trust: TrustDomain) -> None:
    plan = MeshPlan(router={"websocket.origins": "https://chat.example"})
    counted = {"edge bad_requests client websocket_handshake": 2}
    async with running_mesh(plan, trust=trust) as mesh, unharmed(mesh, counted=counted):
        assert await _status(mesh, b"origin: https://evil.example") == b"403"
        assert await _status(mesh, b"origin: null") == b"403"
        assert await _status(mesh, b"origin: https://CHAT.example") == b"101"
        assert await _status(mesh, b"origin: http://mesh") == b"101"  # The host that was asked.


async def test_what_opens_no_websocket_is_answered_in_http(trust: TrustDomain) -> None:
    counted = {
        "edge bad_requests client websocket_handshake": 2,
        "edge bad_requests client other": 2,
    }
    async with running_mesh(trust=trust) as mesh, unharmed(mesh, counted=counted):
        assert await _status(mesh, without=b"sec-websocket-version") == b"426"
        assert await _status(mesh, without=b"sec-websocket-key") == b"400"
        assert await _status(mesh, without=b"upgrade") == b"405"
        assert await _status(mesh, path=b"/v1/embeddings") == b"405"
        assert await _status(mesh, path=b"/v1/models") == b"200"
