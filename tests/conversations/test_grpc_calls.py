"""What calls leave behind in a node that serves them: no object that only the collector would find, no timer."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Awaitable, Callable

import pytest
import trio
from trio.testing import MockClock

from infermesh.net.http2 import Http2ServerConnection, Http2ServerStream, Http2UpstreamStream
from infermesh.planes.data.grpc_frontend import FIRST_MESSAGE_WITHIN_S, _Call
from infermesh.planes.data.grpc_request import GrpcRequest
from infermesh.planes.data.inference import Inference
from infermesh.planes.data.run import Attempt, Run
from infermesh.testing.certificates import TrustDomain
from infermesh.testing.h2_peer import H2Client
from infermesh.testing.mesh import Mesh
from infermesh.testing.waiting import wait_until
from tests.conversations.test_grpc_cancellation import HEADERS, INFER, MESSAGE, OF_MODEL, PATH, cast

pytestmark = pytest.mark.slow
KINDS = (Attempt, GrpcRequest, Http2ServerStream, Http2UpstreamStream, Inference, Run, _Call)


async def answered(client: H2Client) -> None:
    answer = await client.fetch("POST", PATH, MESSAGE, headers=OF_MODEL)
    assert answer.trailers == {"grpc-status": "0"}


async def named_in_the_message(client: H2Client) -> None:
    message = b"\x00\x00\x00\x00\x06\x0a\x04echo"
    answer = await client.fetch("POST", INFER, message, headers=HEADERS)
    assert answer.trailers == {"grpc-status": "0"}


async def refused_at_the_head(client: H2Client) -> None:
    answer = await client.fetch("POST", PATH, MESSAGE, headers=[*HEADERS, ("x-infermesh-model", "nobody")])
    assert answer.headers["grpc-status"] == "5"


async def refused_after_the_message(client: H2Client) -> None:
    answer = await client.fetch("POST", INFER, MESSAGE, headers=HEADERS)
    assert answer.headers["grpc-status"] == "3"


async def reset_before_the_message(client: H2Client) -> None:
    await client.reset(await client.ask("POST", INFER, headers=HEADERS, end=False))


async def reset_in_the_request(client: H2Client) -> None:
    await client.reset(await client.ask("POST", PATH, MESSAGE, headers=OF_MODEL, end=False))


async def too_late(client: H2Client) -> None:
    headers = [*HEADERS, ("grpc-timeout", "5m")]
    stream_id = await client.ask("POST", INFER, headers=headers, end=False)
    answer = await client.answer(stream_id)
    assert answer.headers["grpc-status"] == "4"


async def http(client: H2Client) -> None:
    answer = await client.fetch("POST", "/v2/models/echo/infer", b"{}")
    assert answer.status == 200


WAYS = [
    answered,
    named_in_the_message,
    refused_at_the_head,
    refused_after_the_message,
    reset_before_the_message,
    reset_in_the_request,
    too_late,
    http,
]


@pytest.mark.parametrize("way", WAYS)
async def test_what_has_ended_is_freed_without_the_collector(
    trust: TrustDomain, way: Callable[[H2Client], Awaitable[None]]
) -> None:
    async with cast(trust) as here:
        here.runtime.may_answer.set()
        await answered(here.client)
        await way(here.client)
        await settled(here.mesh)
        gc.collect()
        before = living()
        gc.disable()
        try:
            for _ in range(10):
                await way(here.client)
            await settled(here.mesh)
            left = living() - before
        finally:
            gc.enable()
        assert not left
        assert not armed(here.mesh)


def living() -> Counter[str]:
    return Counter(type(found).__name__ for found in gc.get_objects() if isinstance(found, KINDS))


def armed(mesh: Mesh) -> list[object]:
    """Whatever of a call would still be told of a time."""
    heaps = [node.node._timers._heap for node in mesh.nodes]
    return [timed for heap in heaps for entry in heap for timed in entry[2] if isinstance(timed, KINDS)]


async def settled(mesh: Mesh) -> None:
    """Nothing is under way, on either node."""

    def holds() -> bool:
        return not any(node.node.holdings().requests or node.node.holdings().forwarded for node in mesh.nodes)

    await wait_until(holds, "nothing is under way")
    served = [each for node in mesh.nodes for each in node.node._reactor.served()]
    connections = [each for each in served if isinstance(each, Http2ServerConnection)]
    await wait_until(lambda: not any(each._lingering for each in connections), "no stream lingers")


async def test_a_call_that_never_says_which_model_it_is_for_ends(trust: TrustDomain, autojump_clock: MockClock) -> None:
    async with cast(trust) as here:
        client = here.client
        began = trio.current_time()
        stream_id = await client.ask("POST", INFER, headers=HEADERS, end=False)
        answer = await client.answer(stream_id)
        assert answer.headers["grpc-status"] == "4"
        assert "no first message" in answer.headers["grpc-message"]
        assert trio.current_time() - began == pytest.approx(FIRST_MESSAGE_WITHIN_S, abs=1.0)
