"""How calls end that do not end by themselves: deadlines, clients that leave, runtimes and nodes that die."""

from __future__ import annotations

import queue
import threading
import time
from typing import Any, Final

import grpc
import pytest
import trio

from infermesh.testing.certificates import TrustDomain
from infermesh.testing.h2_peer import H2Client
from infermesh.testing.kserve_runtime import MODEL
from infermesh.testing.waiting import wait_until
from tests.interop.grpc.calling import OF_MODEL, TIMEOUT_S, Client, GrpcMesh, code_of, grpc_mesh
from tests.interop.grpc.runtime import INFER, Methods, named

pytestmark = [pytest.mark.slow, pytest.mark.interop]
Code = grpc.StatusCode
CANCELLED_WITHIN_S: Final = 1.0


async def test_a_deadline_shrinks_from_hop_to_hop(trust: TrustDomain) -> None:
    async with grpc_mesh(trust) as mesh:
        await mesh.call(lambda client: client.unary("Say")(b"", metadata=OF_MODEL, timeout=5.0))
        await mesh.call(lambda client: client.unary("Say")(b"", metadata=OF_MODEL))
        [limited, unlimited] = mesh.runtime.methods.time_left_s
        assert limited is not None
        assert 4.0 < limited < 5.0
        assert unlimited is None or unlimited > 1e6


async def test_a_runtime_that_hangs_meets_the_deadline_at_the_router_and_is_cancelled(trust: TrustDomain) -> None:
    """The client's own clock is told nothing: the deadline that ends the call is the router's."""
    async with grpc_mesh(trust) as mesh:
        began = time.monotonic()
        answer = await raw(mesh, "Wait", [("grpc-timeout", "300m")])
        took_s = time.monotonic() - began
        assert answer["grpc-status"] == "4"
        assert 0.25 < took_s < 1.3
        await trio.to_thread.run_sync(mesh.runtime.methods.await_seen, "cancelled")
        assert mesh.runtime.methods.cancelled_at[0] - began < 0.3 + CANCELLED_WITHIN_S


async def test_a_deadline_ends_a_stream_that_has_begun(trust: TrustDomain) -> None:
    async with grpc_mesh(trust) as mesh:
        answer = await raw(mesh, "Trickle", [("grpc-timeout", "300m")])
        assert answer["grpc-status"] == "4"
        assert "deadline passed at the router" in answer["grpc-message"]
        await trio.to_thread.run_sync(mesh.runtime.methods.await_seen, "cancelled")


async def test_a_deadline_ends_a_call_that_waits_for_its_first_message(trust: TrustDomain) -> None:
    async with grpc_mesh(trust) as mesh:
        answer = await raw(mesh, INFER, [("grpc-timeout", "100m")], body=None)
        assert answer["grpc-status"] == "4"
        assert "waited for the first message" in answer["grpc-message"]


async def test_a_deadline_ends_a_call_that_waits_for_a_slot(trust: TrustDomain) -> None:
    async with grpc_mesh(trust, slots=1) as mesh, trio.open_nursery() as nursery:
        nursery.start_soon(raw, mesh, "Wait", [("grpc-timeout", "900m")])
        await trio.to_thread.run_sync(mesh.runtime.methods.await_seen, "begun")
        answer = await raw(mesh, "Say", [("grpc-timeout", "200m")])
        assert answer["grpc-status"] in ("4", "8")  # Refused at once is as good: it could not have been in time.
        assert mesh.runtime.methods.seen["begun"] == 1


@pytest.mark.parametrize("kind", ["unary", "stream", "conversation"])
async def test_a_client_that_cancels_cancels_at_the_runtime(trust: TrustDomain, kind: str) -> None:
    async with grpc_mesh(trust) as mesh:
        methods = mesh.runtime.methods
        said: queue.Queue[bytes | None] = queue.Queue()

        def ask(client: Client) -> float:
            call: Any
            match kind:
                case "unary":
                    call = client.unary("Wait").future(b"", metadata=OF_MODEL, timeout=TIMEOUT_S)
                case "stream":
                    call = client.counting("Pour")(b"", metadata=OF_MODEL, timeout=TIMEOUT_S)
                    next(call)
                case _:
                    call = client.chatting("Chat")(iter(said.get, None), metadata=OF_MODEL, timeout=TIMEOUT_S)
                    said.put(b"hi")
                    assert next(call) == b"hi"
            methods.await_seen("begun")
            began = time.monotonic()
            call.cancel()
            methods.await_seen("cancelled")
            said.put(None)
            return time.monotonic() - began

        assert await mesh.call(ask) < CANCELLED_WITHIN_S


async def test_a_client_that_is_gone_cancels_at_the_runtime(trust: TrustDomain) -> None:
    async with grpc_mesh(trust) as mesh:
        methods = mesh.runtime.methods

        def ask(client: Client) -> object:
            call = client.unary("Wait").future(b"", metadata=OF_MODEL, timeout=TIMEOUT_S)
            methods.await_seen("begun")
            return call

        await mesh.call(ask)  # Closes its channel at the end.
        await trio.to_thread.run_sync(methods.await_seen, "cancelled")


async def test_a_refused_call_is_tried_at_another_node(trust: TrustDomain) -> None:
    async with grpc_mesh(trust, nodes=2) as mesh:
        decide_first(mesh, "decide_code", Code.UNAVAILABLE, None)

        def ask(client: Client) -> dict[str, str]:
            answer, call = client.unary("Say").with_call(b"x", metadata=OF_MODEL, timeout=TIMEOUT_S)
            assert answer == b"x"
            return dict(call.initial_metadata())

        assert (await mesh.call(ask))["x-infermesh-attempts"] == "2"
        first, second = sorted(mesh.runtimes, key=lambda runtime: runtime.methods.seen["chosen"], reverse=True)
        assert [first.methods.seen["begun"], second.methods.seen["begun"]] == [1, 1]
        assert "grpc-previous-rpc-attempts" not in first.methods.metadata[0]
        assert second.methods.metadata[0]["grpc-previous-rpc-attempts"] == "1"


@pytest.mark.parametrize("code", [Code.INTERNAL, Code.UNKNOWN, Code.INVALID_ARGUMENT, Code.DEADLINE_EXCEEDED])
async def test_a_call_that_failed_is_not_tried_again(trust: TrustDomain, code: grpc.StatusCode) -> None:
    """What a method says of its own request it would say on any node, and it may have done its work already."""
    async with grpc_mesh(trust, nodes=2) as mesh:
        for runtime in mesh.runtimes:
            runtime.methods.refuse_with = code
        got, words = await mesh.call(lambda client: code_of(client.say))
        assert got is code
        assert words == "as told"
        assert sum(runtime.methods.seen["begun"] for runtime in mesh.runtimes) == 1


async def test_a_slow_unary_call_is_hedged_and_the_loser_is_cancelled_at_its_runtime(trust: TrustDomain) -> None:
    """Not while the other node is taken for as loaded, which an answer of a moment ago makes it: hence more tries."""
    router = {"hedging.budget": "1.0", "hedging.floor_ms": "1"}
    async with grpc_mesh(trust, nodes=2, router=router) as mesh:

        def ask(client: Client) -> dict[str, str]:
            for _ in range(20):
                client.say()
            for _ in range(10):
                decide_first(mesh, "decide_wait", TIMEOUT_S, 0.0)
                try:
                    answer, call = client.unary("Say").with_call(b"x", metadata=OF_MODEL, timeout=1.0)
                except grpc.RpcError as error:
                    assert error.code() is Code.DEADLINE_EXCEEDED
                    continue
                assert answer == b"x"
                return dict(call.initial_metadata())
            raise AssertionError("no call was hedged")

        assert (await mesh.call(ask))["x-infermesh-attempts"] == "2"
        tries = sum(runtime.methods.seen["chosen"] for runtime in mesh.runtimes)

        def await_cancelled() -> None:
            for runtime in mesh.runtimes:
                runtime.methods.await_seen("cancelled", runtime.methods.seen["chosen"])

        await trio.to_thread.run_sync(await_cancelled)
        assert tries >= 1


def decide_first(mesh: GrpcMesh, what: str, first: object, later: object) -> None:
    """`first` for whichever runtime is asked first, once, and it is counted as `chosen`; `later` for all others."""
    lock = threading.Lock()
    taken: list[bool] = []

    def decide(methods: Methods) -> object:
        with lock:
            if taken:
                return later
            taken.append(True)
        methods.count("chosen")
        return first

    for runtime in mesh.runtimes:
        setattr(runtime.methods, what, decide)


async def test_a_node_that_dies_inside_a_stream_gives_no_clean_end(trust: TrustDomain) -> None:
    async with grpc_mesh(trust) as mesh:
        begun = trio.Event()
        token = trio.lowlevel.current_trio_token()

        def ask(client: Client) -> tuple[grpc.StatusCode, str]:
            call = client.counting("Trickle")(b"", metadata=OF_MODEL, timeout=TIMEOUT_S)
            assert next(call) == b"first"
            token.run_sync_soon(begun.set)
            return code_of(lambda: list(call))

        async with trio.open_nursery() as nursery:

            async def kill() -> None:
                await begun.wait()
                await mesh.mesh.gpus[0].kill()

            nursery.start_soon(kill)
            code, words = await mesh.call(ask)
        assert code is Code.UNAVAILABLE
        assert "broke off" in words
        assert "incomplete" in words
        await mesh.mesh.gpus[0].start()
        await mesh.mesh.wait_ready()


async def test_a_runtime_that_dies_inside_a_stream_gives_no_clean_end(trust: TrustDomain) -> None:
    async with grpc_mesh(trust) as mesh:

        def ask(client: Client) -> tuple[grpc.StatusCode, str]:
            call = client.counting("Trickle")(b"", metadata=OF_MODEL, timeout=TIMEOUT_S)
            assert next(call) == b"first"
            mesh.runtime.server.stop(0)
            return code_of(lambda: list(call))

        code, _ = await mesh.call(ask)
        assert code in (Code.UNAVAILABLE, Code.CANCELLED)


async def test_connections_that_the_runtime_ends_by_age_lose_no_call(trust: TrustDomain) -> None:
    """grpcio's server says GOAWAY after 100 ms of each connection, while calls are under way and others begin."""
    options = [("grpc.max_connection_age_ms", 100), ("grpc.max_connection_age_grace_ms", 5000)]
    async with grpc_mesh(trust, server_options=options) as mesh:

        def ask(client: Client) -> int:
            calls = 0
            until = time.monotonic() + 2.0
            while time.monotonic() < until:
                pending = [
                    client.unary("Say").future(b"%d" % number, metadata=OF_MODEL, timeout=TIMEOUT_S)
                    for number in range(8)
                ]
                assert [call.result() for call in pending] == [b"%d" % number for number in range(8)]
                calls += 8
            return calls

        calls = await mesh.call(ask)
        assert mesh.runtime.methods.seen["begun"] == calls
        assert len(mesh.runtime.methods.peers) >= 5


async def test_a_large_request_that_was_not_taken_is_tried_elsewhere_whole(trust: TrustDomain) -> None:
    """What came before the first node failed is kept; the second gets all of it."""
    message = named(MODEL, bytes(4 << 20))
    async with grpc_mesh(trust, nodes=2) as mesh:
        decide_first(mesh, "decide_code", Code.UNAVAILABLE, None)
        assert await mesh.call(lambda client: client.unary(INFER)(message, timeout=TIMEOUT_S)) == message
        assert [runtime.methods.seen["begun"] for runtime in mesh.runtimes] == [1, 1]


async def raw(
    mesh: GrpcMesh, name: str, headers: list[tuple[str, str]], body: bytes | None = bytes(5)
) -> dict[str, str]:
    """The head and trailers of a call made by h2, which keeps no clock; `body` None: nothing follows the head."""
    own = [("content-type", "application/grpc"), ("te", "trailers"), *headers]
    path = name if name.startswith("/") else f"/test.Anything/{name}"
    if path == f"/test.Anything/{name}":
        own += OF_MODEL
    async with await H2Client.dial(mesh.mesh.router.client_address) as client:
        stream = await client.ask("POST", path, body or b"", headers=own, end=body is not None)
        with trio.fail_after(TIMEOUT_S):
            answer = await client.answer(stream)
    return {**answer.headers, **answer.trailers}


async def test_the_books_are_closed_once_for_each_call(trust: TrustDomain) -> None:
    """Requests that arrived are those that completed, failed, or were cancelled."""
    async with grpc_mesh(trust) as mesh:

        def ask(client: Client) -> None:
            client.say()
            code_of(lambda: client.unary("Fail")(b"", metadata=OF_MODEL, timeout=TIMEOUT_S))
            code_of(lambda: client.unary("Wait")(b"", metadata=OF_MODEL, timeout=0.2))
            call = client.counting("Trickle")(b"", metadata=OF_MODEL, timeout=TIMEOUT_S)
            next(call)
            call.cancel()

        await mesh.call(ask)
        records = mesh.mesh.router.node.telemetry.ledger
        await wait_until(lambda: all(record.ended_at for record in records.recent(10)), "all have ended")
        endings = [record.ending.value for record in records.recent(10) if record.ending is not None]
        # Whose clock is first, the client's or the router's, says how the late one ended.
        late = "failed" if "failed" in endings else "cancelled"
        assert sorted(endings) == sorted(["cancelled", "completed", late, "invalid"])


@pytest.mark.parametrize("name", ["Say", "Chat"])
async def test_a_router_that_is_told_to_stop_ends_the_calls_that_it_has(trust: TrustDomain, name: str) -> None:
    """GOAWAY, and no call that runs is cut off; then the node ends by itself."""
    async with grpc_mesh(trust) as mesh:
        router, methods = mesh.mesh.router, mesh.runtime.methods
        may_answer, told = threading.Event(), threading.Event()
        methods.before_answer = lambda: may_answer.wait(TIMEOUT_S)
        said: queue.Queue[bytes | None] = queue.Queue()

        def unary(client: Client) -> bytes:
            call = client.unary("Say").future(b"x", metadata=OF_MODEL, timeout=TIMEOUT_S)
            methods.await_seen("begun")
            told.set()
            answer: bytes = call.result()
            return answer

        def chat(client: Client) -> bytes:
            call = client.chatting("Chat")(iter(said.get, None), metadata=OF_MODEL, timeout=TIMEOUT_S)
            said.put(b"before")
            assert next(call) == b"before"
            told.set()
            may_answer.wait(TIMEOUT_S)
            said.put(b"x")
            answer: bytes = next(call)
            said.put(None)
            assert list(call) == []
            return answer

        async def stop() -> None:
            await trio.to_thread.run_sync(told.wait, TIMEOUT_S)
            router.node.stop()
            await wait_until(lambda: router.node.sources.stopping, "it stops")
            may_answer.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(stop)
            assert await mesh.call(unary if name == "Say" else chat) == b"x"
        await wait_until(lambda: not router.running, "the router has stopped")
        await router.start()
        await mesh.mesh.wait_ready()
