"""Inference over WebSocket on a stream of HTTP/2 (RFC 8441) through a mesh: the same messages, beside other streams."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from infermesh.testing.bystander import unharmed
from infermesh.testing.certificates import TrustDomain
from infermesh.testing.completions import completion_body, expected_text
from infermesh.testing.h2_peer import H2Client, PeerStream
from infermesh.testing.mesh import Mesh, running_mesh
from infermesh.testing.mesh_plan import MODEL
from infermesh.testing.waiting import wait_until
from infermesh.testing.websocket_frames import CLOSE, TEXT, client_frame, close_payload, read_frames

ENABLE_CONNECT_PROTOCOL = 8
CANCELLED = {
    f"edge inferences {MODEL} emulated gpu-a cancelled": 1,
    "edge upstream_attempts gpu-a cancelled": 1,
    "edge cancelled_upstream gpu-a client_gone": 1,
    "gpu-a upstream_attempts gpu-a cancelled": 1,
    "gpu-a cancelled_upstream gpu-a client_gone": 1,
}


class StreamTalk:
    """A client's side of one WebSocket on a stream."""

    def __init__(self, client: H2Client, stream: PeerStream) -> None:
        self.client = client
        self.stream = stream

    @classmethod
    async def open(cls, client: H2Client, path: str = "/v1/completions", protocol: str = "websocket") -> StreamTalk:
        await client.read_until(lambda: ENABLE_CONNECT_PROTOCOL in client.settings)
        stream = client.of(client.machine.get_next_available_stream_id())
        head = [
            (":method", "CONNECT"),
            (":protocol", protocol),
            (":scheme", "http"),
            (":path", path),
            (":authority", "mesh"),
            ("sec-websocket-version", "13"),
            ("x-infermesh-priority", "interactive"),
        ]
        await client.send_headers(stream.stream_id, head)
        await client.read_until(lambda: bool(stream.headers))
        return cls(client, stream)

    async def say(self, **value: object) -> None:
        await self.client.send_data(self.stream.stream_id, client_frame(TEXT, json.dumps(value).encode()))

    async def hear(self) -> Any:
        await self.client.read_until(lambda: bool(read_frames(bytes(self.stream.body))[0]))
        (first, *_), _ = read_frames(bytes(self.stream.body))
        del self.stream.body[: len(first.payload) + (2 if len(first.payload) < 126 else 4)]
        assert first.opcode == TEXT, first
        return json.loads(first.payload)

    async def answer(self) -> tuple[str, Any]:
        text = ""
        while not (message := await self.hear())["object"].startswith("infermesh."):
            text += message["choices"][0]["text"]
        return text, message


@asynccontextmanager
async def asking(mesh: Mesh) -> AsyncGenerator[H2Client, None]:
    with trio.fail_after(20):
        async with await H2Client.dial(mesh.router.client_address) as client:
            yield client


async def test_tokens_come_as_messages_on_a_stream_beside_others(trust: TrustDomain) -> None:
    async with (
        running_mesh(trust=trust) as mesh,
        unharmed(mesh, counted={}),
        asking(mesh) as client,
    ):
        first, second = await StreamTalk.open(client), await StreamTalk.open(client)
        await first.say(model=MODEL, prompt="first", max_tokens=4)
        await second.say(model=MODEL, prompt="second", max_tokens=4)
        whole = await client.fetch("POST", "/v1/completions", completion_body("third"))
        assert whole.status == 200
        for talk, prompt in ((second, "second"), (first, "first")):
            text, last = await talk.answer()
            assert text == expected_text(prompt, 4)
            assert (last["object"], last["node"]) == ("infermesh.done", "gpu-a")
        closing = client_frame(CLOSE, close_payload(1000))
        await client.send_data(first.stream.stream_id, closing, end=True)
        await client.read_until(lambda: first.stream.ended)
        assert bytes(first.stream.body) == b"\x88\x02\x03\xe8"


@pytest.mark.parametrize("way", ["cancel", "reset", "close"])
async def test_whoever_wants_no_more_ends_the_request_on_the_engine(trust: TrustDomain, way: str) -> None:
    async with (
        running_mesh(trust=trust) as mesh,
        unharmed(mesh, counted=CANCELLED),
        asking(mesh) as client,
    ):
        talk = await StreamTalk.open(client)
        await talk.say(model=MODEL, prompt="hello", max_tokens=2000)
        await talk.hear()
        match way:
            case "cancel":
                await talk.say(type="cancel")
                assert (await talk.answer())[1]["cancelled"]
            case "reset":
                await client.reset(talk.stream.stream_id)
            case _:
                await client.send_data(talk.stream.stream_id, client_frame(CLOSE, close_payload(1000)))
        driver = mesh.engine.server.drivers[MODEL]
        await wait_until(lambda: driver.aborts, "the engine was told")


async def test_a_connect_to_elsewhere_is_refused_and_the_connection_lives(trust: TrustDomain) -> None:
    counted = {"edge bad_requests client websocket_handshake": 2}
    async with (
        running_mesh(trust=trust) as mesh,
        unharmed(mesh, counted=counted),
        asking(mesh) as client,
    ):
        assert (await StreamTalk.open(client, path="/v1/embeddings")).stream.status == 404
        assert (await StreamTalk.open(client, protocol="connect-udp")).stream.status == 501
        assert (await client.fetch("GET", "/v1/models")).status == 200
