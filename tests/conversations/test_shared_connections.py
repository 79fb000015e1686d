"""Many clients share one connection between two nodes: what some of them do is not held against the others."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from infermesh.testing.certificates import TrustDomain
from infermesh.testing.h2_peer import H2Client
from infermesh.testing.waiting import wait_until
from tests.conversations.test_grpc_cancellation import MESSAGE, OF_MODEL, PATH, Cast, cast
from wire.limits import HTTP2_OWN_RESETS_MAX, HTTP2_RESETS_RECEIVED_MAX

pytestmark = pytest.mark.slow


@asynccontextmanager
async def bystander(trust: TrustDomain, *, slots: int = 64) -> AsyncIterator[Cast]:
    """A call is being answered all the while, and must end well."""
    async with cast(trust, slots=slots) as here:
        here.runtime.head_first = True
        await here.ask()
        answer = here.client.of(here.stream_id)
        await here.client.read_until(lambda: bool(answer.body))
        here.runtime.head_first = False
        yield here
        here.runtime.may_answer.set()
        await here.client.answer(here.stream_id)
        assert answer.trailers == {"grpc-status": "0"}, answer


async def test_calls_that_many_clients_cancel(trust: TrustDomain) -> None:
    """More than one client may cancel in so much time; between nodes they come together."""
    each = HTTP2_RESETS_RECEIVED_MAX - 20
    async with bystander(trust) as here:
        for _ in range(3):
            async with await H2Client.dial(here.mesh.router.client_address) as client:
                for number in range(each):
                    stream_id = await client.ask("POST", PATH, MESSAGE, headers=OF_MODEL)
                    if number % 20 == 19:
                        await wait_until(lambda: here.runtime.calls > here.runtime.cancelled + 1, "some are begun")
                    await client.reset(stream_id)
            await wait_until(lambda: here.holdings_requests == 1, lambda: f"{here.holdings_requests} calls run")
        assert here.runtime.cancelled > HTTP2_RESETS_RECEIVED_MAX


async def test_heads_that_are_as_large_as_a_client_may_send(trust: TrustDomain) -> None:
    """A router adds to them, and the node takes what comes of it."""
    own = [*OF_MODEL, *((f"x-{number:04}", "v" * 200) for number in range(67))]
    async with bystander(trust) as here:
        here.runtime.may_answer.set()
        async with await H2Client.dial(here.mesh.router.client_address) as client:
            size = sum(len(name) + len(value) + 32 for name, value in own) + 200
            assert 16_000 < size < 16_384
            for _ in range(HTTP2_OWN_RESETS_MAX + 20):
                with trio.fail_after(5):
                    answer = await client.fetch("POST", PATH, MESSAGE, headers=own)
                assert answer.trailers == {"grpc-status": "0"}, answer


async def test_requests_that_are_refused_before_they_are_whole(trust: TrustDomain) -> None:
    """What is still on its way when the refusal comes belongs to nobody, and harms nobody."""
    async with bystander(trust) as here, await H2Client.dial(here.mesh.router.client_address) as client:
        for _ in range(40):
            headers = [*OF_MODEL[:-1], ("x-infermesh-model", "nobody")]
            stream_id = await client.ask("POST", PATH, bytes(60_000), headers=headers, end=False)
            answer = await client.answer(stream_id)
            assert answer.headers["grpc-status"] == "5"
        again = await client.fetch("POST", PATH, MESSAGE, headers=headers)
        assert again.headers["grpc-status"] == "5"
