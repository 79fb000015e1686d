"""Runtimes and nodes that fail at every moment of an answer: what the client is told, and that nobody else feels it."""

from __future__ import annotations

import re
from dataclasses import dataclass

import msgspec
import pytest
import trio

from infermesh.emulator import Faults
from infermesh.testing.bystander import unharmed
from infermesh.testing.certificates import TrustDomain
from infermesh.testing.completions import (
    PATH,
    completion_body,
    completion_request,
    error_code,
    event_text,
    expected_text,
    unary_text,
)
from infermesh.testing.http_peer import PeerResponse
from infermesh.testing.mesh import Mesh, running_mesh
from infermesh.testing.mesh_plan import MODEL, GpuPlan, MeshPlan
from infermesh.testing.scripted_runtime import Script, scripted_runtime
from infermesh.testing.tcp_relay import RelayMode
from infermesh.testing.waiting import wait_until

# In turns, so that a test knows who is next.
TWO = MeshPlan(gpus=[GpuPlan(), GpuPlan()], bystander=1, router={"routing.policy": "round_robin"})


@dataclass(frozen=True, slots=True)
class Raw:
    """What a client received until its connection ended."""

    head: bytes
    body: bytes

    @property
    def status(self) -> int:
        return int(self.head.split(b" ", 2)[1])

    @property
    def chunks(self) -> list[bytes]:
        """The whole chunks of the body. Fails when what is left is not the beginning of one."""
        found, rest = [], self.body
        while rest:
            size_line, _, rest = rest.partition(b"\r\n")
            size = int(size_line, 16)
            assert rest[size : size + 2] == b"\r\n", (size, rest[:80])
            found.append(rest[:size])
            rest = rest[size + 2 :]
        return found

    @property
    def events(self) -> list[str]:
        whole = b"".join(self.chunks)
        return [event.removeprefix("data: ") for event in re.split("\n\n+", whole.decode()) if event.strip()]


async def ask_raw(mesh: Mesh, request: bytes) -> Raw:
    with trio.fail_after(10):
        async with await trio.open_tcp_stream(*mesh.router.client_address) as stream:
            await stream.send_all(request)
            received = b"".join([bytes(piece) async for piece in stream])
    head, _, body = received.partition(b"\r\n\r\n")
    return Raw(head, body)


async def assert_serves(mesh: Mesh) -> None:
    async with await mesh.client() as client:
        answer = await client.fetch("POST", PATH, completion_body("afterwards"))
        assert answer.status == 200, answer
        assert unary_text(answer.body) == expected_text("afterwards", 4)


def failed(runtime: str = "- -") -> str:
    return f"edge inferences {MODEL} {runtime} failed"


# --- Before the first byte ---


@dataclass(frozen=True, slots=True)
class Failing:
    """A fault of the engine for one request, the status of a client whose model has no other target, and the counts."""

    name: str
    faults: Faults
    status: int
    code: str
    counted: dict[str, int]
    verdict_at_router: str
    stream: bool = False


SERVER_ERROR = {"edge upstream_attempts gpu-a server_error": 1}
FAILING = (
    Failing(
        "an internal error",
        Faults(requests_left=1, sinkhole_probability=1.0),
        500,
        "",
        {failed("emulated gpu-a"): 1, **SERVER_ERROR, "gpu-a upstream_attempts gpu-a server_error": 1},
        "server_error",
    ),
    Failing(
        "bytes that are no HTTP",
        Faults(requests_left=1, garbage_head=True),
        502,
        "runtime_unreachable",
        {failed("emulated gpu-a"): 1, **SERVER_ERROR, "gpu-a upstream_attempts gpu-a broken": 1},
        "server_error",
    ),
    Failing(
        "a reset after the head of a stream and before its first token",
        Faults(requests_left=1, reset_after_tokens=0),
        502,
        "runtime_unreachable",
        {failed("emulated gpu-a"): 1, **SERVER_ERROR, "gpu-a upstream_attempts gpu-a broken": 1},
        "server_error",
        stream=True,
    ),
    Failing(
        "the end of a stream before its first token",
        Faults(requests_left=1, truncate_after_tokens=0),
        502,
        "runtime_unreachable",
        {failed("emulated gpu-a"): 1, **SERVER_ERROR, "gpu-a upstream_attempts gpu-a broken": 1},
        "server_error",
        stream=True,
    ),
)


@pytest.mark.parametrize("failing", FAILING, ids=lambda failing: failing.name)
async def test_a_failure_before_the_first_byte_is_told_in_words_when_no_other_node_is_there(
    trust: TrustDomain, failing: Failing
) -> None:
    async with running_mesh(trust=trust) as mesh, unharmed(mesh, counted=failing.counted):
        mesh.engine.faults.become(failing.faults)
        async with await mesh.client() as client:
            answer = await client.fetch("POST", PATH, completion_body(stream=failing.stream))
            assert answer.status == failing.status
            assert answer.headers["x-infermesh-attempts"] == "1"
            if failing.code:
                assert error_code(answer.body) == failing.code
            assert (await client.fetch("POST", PATH, completion_body())).status == 200


@pytest.mark.parametrize("failing", FAILING, ids=lambda failing: failing.name)
async def test_a_failure_before_the_first_byte_is_made_good_by_another_node(
    trust: TrustDomain, failing: Failing
) -> None:
    counted = {name: count for name, count in failing.counted.items() if "inferences" not in name}
    counted[f"edge retries {MODEL} {failing.verdict_at_router}"] = 1
    async with running_mesh(TWO, trust=trust) as mesh:
        await turn_of(mesh, "gpu-a")
        async with unharmed(mesh, counted=counted), await mesh.client() as client:
            mesh.engine.faults.become(failing.faults)
            answer = await client.fetch("POST", PATH, completion_body("again", stream=failing.stream))
            assert answer.status == 200
            assert answer.headers["x-infermesh-node"] == "gpu-b"
            assert answer.headers["x-infermesh-attempts"] == "2"


async def turn_of(mesh: Mesh, node: str) -> None:
    """Ask until the next request will go to this node."""
    async with await mesh.client() as client:
        while (await client.fetch("POST", PATH, completion_body("turn"))).headers["x-infermesh-node"] == node:
            pass


@pytest.mark.parametrize("streamed", [True, False], ids=["streamed", "whole"])
async def test_a_runtime_that_is_not_there_is_told_in_words(trust: TrustDomain, streamed: bool) -> None:
    counted = {failed("emulated gpu-a"): 1, **SERVER_ERROR, "gpu-a upstream_attempts gpu-a connect_failed": 1}
    async with running_mesh(trust=trust) as mesh, unharmed(mesh, counted=counted), await mesh.client() as client:
        await mesh.engine.kill()
        answer = await client.fetch("POST", PATH, completion_body(stream=streamed))
        assert answer.status == 502
        assert error_code(answer.body) == "runtime_unreachable"
        assert b"Connection refused" in answer.body
        await mesh.engine.start()


async def test_a_runtime_that_dies_with_a_request_in_it_is_told_in_words(trust: TrustDomain) -> None:
    counted = {failed("emulated gpu-a"): 1, **SERVER_ERROR, "gpu-a upstream_attempts gpu-a broken": 1}
    async with running_mesh(trust=trust) as mesh, unharmed(mesh, counted=counted), await mesh.client() as client:
        mesh.engine.faults.frozen = True
        await client.send("POST", PATH, completion_body())
        await wait_until(lambda: mesh.engine.server.drivers[MODEL].in_flight, "the request is with the engine")
        await mesh.engine.kill()
        assert (await client.head()).status_code == 502
        await mesh.engine.start()


async def test_a_stuck_runtime_is_given_up_by_the_clients_deadline(trust: TrustDomain) -> None:
    """And the runtime's share in it is not held against it: the client was in a hurry."""
    counted = {
        failed(): 1,
        "edge upstream_attempts gpu-a cancelled": 1,
        "edge cancelled_upstream gpu-a deadline": 1,
        "gpu-a upstream_attempts gpu-a cancelled": 1,
        "gpu-a cancelled_upstream gpu-a client_gone": 1,
    }
    async with running_mesh(trust=trust) as mesh, unharmed(mesh, counted=counted), await mesh.client() as client:
        assert (await client.fetch("POST", PATH, completion_body())).status == 200
        mesh.engine.faults.become(Faults(requests_left=1, stuck=True))
        answer = await client.fetch("POST", PATH, completion_body(), [("x-infermesh-deadline-ms", "100")])
        assert answer.status == 504
        assert error_code(answer.body) == "timed_out"
        await wait_until(lambda: mesh.engine.server.drivers[MODEL].aborts, "the engine was told")


async def test_a_stuck_runtime_is_given_up_when_its_own_time_is_over(trust: TrustDomain) -> None:
    counted = {
        failed(): 1,
        "edge upstream_attempts gpu-a timed_out": 1,
        "gpu-a upstream_attempts gpu-a cancelled": 1,
        "gpu-a cancelled_upstream gpu-a client_gone": 1,
    }
    plan = MeshPlan(router={"upstream.head_timeout_s": "0.1"})
    async with running_mesh(plan, trust=trust) as mesh:
        mesh.engine.faults.become(Faults(requests_left=1, stuck=True))
        # The bystander's stream has had its first byte: the time is over for the stuck one alone.
        async with unharmed(mesh, counted=counted), await mesh.client() as client:
            answer = await client.fetch("POST", PATH, completion_body())
            assert answer.status == 504
            assert error_code(answer.body) == "timed_out"
            await wait_until(lambda: mesh.engine.server.drivers[MODEL].aborts, "the engine was told")


# --- After the first byte ---


@dataclass(frozen=True, slots=True)
class Breaking:
    name: str
    faults: Faults
    verdict: str = "broken"


BREAKING = (
    Breaking("reset", Faults(requests_left=1, reset_after_tokens=3)),
    Breaking("truncated", Faults(requests_left=1, truncate_after_tokens=3)),
    Breaking("crashed", Faults(requests_left=1, crash_after_tokens=3)),
    Breaking("stalled", Faults(requests_left=1, stall_after_tokens=3)),
)


@pytest.mark.slow
@pytest.mark.parametrize("breaking", BREAKING, ids=lambda breaking: breaking.name)
async def test_a_stream_that_breaks_ends_with_one_error_event_and_no_clean_end(
    trust: TrustDomain, breaking: Breaking
) -> None:
    counted = {
        failed("emulated gpu-a"): 1,
        "edge upstream_attempts gpu-a broken": 1,
        f"gpu-a upstream_attempts gpu-a {breaking.verdict}": 1,
    }
    # The router's patience is longer: it is the node that sees the stall first, and says so. The bystander, whose
    # stream stands still all the while, is with another node.
    hasty = GpuPlan(settings={"upstream.stall_timeout_s": "0.15"})
    plan = MeshPlan(gpus=[hasty, GpuPlan(engines=())], bystander=1)
    async with running_mesh(plan, trust=trust) as mesh:
        mesh.engine.faults.become(breaking.faults)
        async with unharmed(mesh, counted=counted):
            answer = await ask_raw(mesh, completion_request(tokens=50, stream=True))
            assert answer.status == 200
            *texts, last = answer.events
            assert [text for text in texts if "error" in text] == []
            assert "".join(map(event_text, texts)) == expected_text("hello", 3)
            error = msgspec.json.decode(last)["error"]
            assert error["code"] == "stream_broken"
            assert answer.chunks[-1], "the last chunk says that the stream came to its end"


async def test_an_answer_shorter_than_it_said_never_looks_whole(trust: TrustDomain) -> None:
    counted = {
        failed("emulated gpu-a"): 1,
        "edge upstream_attempts gpu-a broken": 1,
        "gpu-a upstream_attempts gpu-a broken": 1,
    }
    async with running_mesh(trust=trust) as mesh, unharmed(mesh, counted=counted):
        mesh.engine.faults.become(Faults(requests_left=1, content_length_delta=10))
        answer = await ask_raw(mesh, completion_request())
        assert answer.status == 200
        length = re.search(rb"content-length: (\d+)", answer.head)
        assert length is not None
        assert int(length[1]) == len(answer.body) + 10
        await assert_serves(mesh)


async def test_what_comes_beyond_the_end_of_an_answer_reaches_nobody(trust: TrustDomain) -> None:
    """The start of one answer must not become the end of another."""
    async with running_mesh(trust=trust) as mesh, unharmed(mesh, counted={}), await mesh.client() as client:
        mesh.engine.faults.become(Faults(requests_left=1, content_length_delta=-10))
        answer = await client.fetch("POST", PATH, completion_body())
        assert answer.status == 200
        assert len(answer.body) == int(answer.headers["content-length"])
        good = await client.fetch("POST", PATH, completion_body("next"))
        assert unary_text(good.body) == expected_text("next", 4)


async def test_a_second_answer_that_nobody_asked_for_is_no_answer_to_the_next_request(trust: TrustDomain) -> None:
    """Response queue poisoning: the connection that brought it is not used again."""
    whole = OK + b"content-type: application/json\r\ncontent-length: 2\r\n\r\n"

    async def script(response: PeerResponse) -> None:
        await response.send_raw(whole + b"{}" + whole + b"!!")
        await response.wait_gone()

    async with (
        scripted_runtime(script) as runtime,
        running_mesh(MeshPlan(gpus=[GpuPlan(engines=(), runtimes=[runtime])]), trust=trust) as mesh,
        unharmed(mesh, counted={}),
        await mesh.client() as client,
    ):
        for _ in range(3):
            answer = await client.fetch("POST", PATH, completion_body())
            assert (answer.status, answer.body) == (200, b"{}")
            held = mesh.gpus[0].node.holdings()
            assert [counts for key, counts in held.upstream.items() if MODEL in key] == [(0, 0)]


@pytest.mark.parametrize("fault", [{"head_split_s": 0.02}, {"answer_delay_s": 0.02}], ids=["split", "late"])
@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
async def test_an_answer_that_comes_in_odd_pieces_is_whole(
    trust: TrustDomain, fault: dict[str, float], stream: bool
) -> None:
    async with running_mesh(trust=trust) as mesh, unharmed(mesh, counted={}), await mesh.client() as client:
        mesh.engine.faults.become(msgspec.convert({"requests_left": 1, **fault}, Faults))
        answer = await client.fetch("POST", PATH, completion_body(stream=stream))
        assert answer.status == 200
        if not stream:
            assert unary_text(answer.body) == expected_text("hello", 4)


# --- Runtimes that speak no HTTP that anybody may pass on ---

OK = b"HTTP/1.1 200 OK\r\n"
STREAM = OK + b"content-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def says(*pieces: bytes) -> Script:
    """Send these, one after the other, and hang up."""

    async def script(response: PeerResponse) -> None:
        for piece in pieces:
            await response.send_raw(piece)
            await trio.lowlevel.checkpoint()
        await response.abort()

    return script


REFUSED = {
    "nothing": says(),
    "half a head": says(b"HTTP/1.1 200 OK\r\ncontent-"),
    "a head without end": says(OK + b"x: " + b"a" * 70_000),
    "too many fields": says(OK + b"x: y\r\n" * 129 + b"\r\n"),
    "seventeen interim answers": says(b"HTTP/1.1 103 Early Hints\r\n\r\n" * 17 + OK + b"content-length: 0\r\n\r\n"),
    "another protocol": says(b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n"),
    "a length beside a coding": says(OK + b"content-length: 2\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"),
    "two lengths": says(OK + b"content-length: 2\r\ncontent-length: 3\r\n\r\nabc"),
    "an unknown coding": says(OK + b"transfer-encoding: gzip\r\n\r\nabc"),
    "a folded line": says(OK + b"x: a\r\n b\r\ncontent-length: 0\r\n\r\n"),
    "a status beyond all": says(b"HTTP/1.1 999 Odd\r\ncontent-length: 0\r\n\r\n"),
}


@pytest.mark.parametrize("script", REFUSED.values(), ids=REFUSED.keys())
async def test_a_runtime_that_speaks_no_http_is_answered_for_by_its_node(trust: TrustDomain, script: Script) -> None:
    counted = {failed("emulated gpu-a"): 1, **SERVER_ERROR, "gpu-a upstream_attempts gpu-a broken": 1}
    async with (
        scripted_runtime(script) as runtime,
        running_mesh(MeshPlan(gpus=[GpuPlan(engines=(), runtimes=[runtime])]), trust=trust) as mesh,
        unharmed(mesh, counted=counted),
        await mesh.client() as client,
    ):
        answer = await client.fetch("POST", PATH, completion_body())
        assert answer.status == 502
        assert error_code(answer.body) == "runtime_unreachable"


EVENT = b'1e\r\ndata: {"choices": [], "a":1}\n\n\r\n'
BROKEN_OFF = {
    "a chunk of no size": (b"zz\r\nabc\r\n", 1),
    "a chunk longer than it says": (b"3\r\ndata: \r\n", 1),
    "half a chunk": (b"40\r\ndata: {", 1),
    "half a chunk's size line": (b"4", 0),  # What is half a line can not be mended: only the end tells.
    "an endless chunk extension": (b"3;" + b"x" * 5_000 + b"\r\nabc\r\n", 1),
    "a trailer of no field": (b"0\r\nno field\r\n\r\n", 1),
}


@pytest.mark.parametrize(("sent", "errors"), BROKEN_OFF.values(), ids=BROKEN_OFF.keys())
async def test_a_stream_that_turns_to_garbage_breaks_off(trust: TrustDomain, sent: bytes, errors: int) -> None:
    first_event_passed = trio.Event()

    async def script(response: PeerResponse) -> None:
        await response.send_raw(STREAM + EVENT)
        await first_event_passed.wait()
        await response.send_raw(sent)
        await response.abort()

    counted = {
        failed("emulated gpu-a"): 1,
        "edge upstream_attempts gpu-a broken": 1,
        "gpu-a upstream_attempts gpu-a broken": 1,
    }
    async with (
        scripted_runtime(script) as runtime,
        running_mesh(MeshPlan(gpus=[GpuPlan(engines=(), runtimes=[runtime])]), trust=trust) as mesh,
        unharmed(mesh, counted=counted),
    ):
        received = b""
        async with await trio.open_tcp_stream(*mesh.router.client_address) as stream:
            await stream.send_all(completion_request(stream=True))
            with trio.fail_after(5):
                async for piece in stream:
                    received += piece
                    if EVENT in received:
                        first_event_passed.set()
        head, _, body = received.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
        assert body.startswith(EVENT)
        assert body.count(b"stream_broken") == errors
        assert not body.endswith(b"0\r\n\r\n")


GARBAGE_AT_ONCE = STREAM + b"zz\r\nabc\r\n"


async def test_a_stream_that_begins_with_garbage_counts_as_no_answer(trust: TrustDomain) -> None:
    counted = {failed(): 1, "edge upstream_attempts gpu-a broken": 1, "gpu-a upstream_attempts gpu-a broken": 1}
    async with (
        scripted_runtime(says(GARBAGE_AT_ONCE)) as runtime,
        running_mesh(MeshPlan(gpus=[GpuPlan(engines=(), runtimes=[runtime])]), trust=trust) as mesh,
        unharmed(mesh, counted=counted),
        await mesh.client() as client,
    ):
        answer = await client.fetch("POST", PATH, completion_body())
        assert answer.status == 502
        assert error_code(answer.body) == "no_answer"


async def test_a_stream_of_the_routers_own_runtime_that_begins_with_garbage_breaks_off_after_a_head(
    trust: TrustDomain,
) -> None:
    """The head is decided on when the first byte of the body comes, and that one is garbage: it must go out first."""
    counted = {f"edge inferences {MODEL} emulated edge failed": 1, "edge upstream_attempts edge broken": 1}
    async with (
        scripted_runtime(says(GARBAGE_AT_ONCE)) as runtime,
        running_mesh(MeshPlan(gpus=[GpuPlan(engines=())], own=[runtime]), trust=trust) as mesh,
        unharmed(mesh, counted=counted),
    ):
        answer = await ask_raw(mesh, completion_request(stream=True))
        assert answer.status == 200
        [event] = answer.events
        assert msgspec.json.decode(event)["error"]["code"] == "stream_broken"


# --- The network between router and node ---

RELAYED = GpuPlan(relayed=True)
# The bystander is with a node of its own, whose network is sound.
BROKEN_NETWORK = MeshPlan(
    gpus=[RELAYED, GpuPlan(engines=())], bystander=1, router={"upstream.connect_timeout_s": "0.1"}
)
NOT_REACHED = {failed(): 1, "edge upstream_attempts gpu-a connect_failed": 1}


@pytest.mark.parametrize(
    ("mode", "said", "reason"),
    [
        (RelayMode.SILENT, b"no TLS handshake in time", "timed_out"),
        (RelayMode.RESET, b"Connection reset by peer", "closed"),
        (RelayMode.CLOSE, b"closed by the peer", "closed"),
    ],
    ids=["silent", "reset", "closed"],
)
async def test_a_node_that_cannot_be_reached_is_told_in_words(
    trust: TrustDomain, mode: RelayMode, said: bytes, reason: str
) -> None:
    counted = {**NOT_REACHED, f"edge tls_handshakes_failed - {reason}": 1}
    async with running_mesh(BROKEN_NETWORK, trust=trust) as mesh:
        async with unharmed(mesh, counted=counted), await mesh.client() as client:
            mesh.relays[0].mode = mode
            answer = await client.fetch("POST", PATH, completion_body())
            assert answer.status == 502
            assert error_code(answer.body) == "no_answer"
            assert said in answer.body
        mesh.relays[0].mode = RelayMode.PASS
        await assert_serves(mesh)


async def test_a_client_in_a_hurry_does_not_speak_against_a_node_that_is_slow_to_connect(trust: TrustDomain) -> None:
    """Two refused connections in a row take a node out of choice: impatience must not count as one."""
    counted = {
        failed(): 1,
        "edge upstream_attempts gpu-a cancelled": 1,
        "edge cancelled_upstream gpu-a deadline": 1,
    }
    plan = MeshPlan(gpus=[RELAYED, GpuPlan(engines=())], bystander=1)
    async with (
        running_mesh(plan, trust=trust) as mesh,
        unharmed(mesh, counted=counted),
        await mesh.client() as client,
    ):
        mesh.relays[0].mode = RelayMode.SILENT
        answer = await client.fetch("POST", PATH, completion_body(), [("x-infermesh-deadline-ms", "100")])
        assert answer.status == 504
        assert error_code(answer.body) == "timed_out"


async def test_a_node_that_refuses_connections_is_told_in_words(trust: TrustDomain) -> None:
    async with (
        running_mesh(BROKEN_NETWORK, trust=trust) as mesh,
        unharmed(mesh, counted=NOT_REACHED),
        await mesh.client() as client,
    ):
        mesh.relays[0].refuse()
        answer = await client.fetch("POST", PATH, completion_body())
        assert answer.status == 502
        assert b"Connection refused" in answer.body


async def test_a_network_that_breaks_inside_a_stream_ends_it_with_an_error_event(trust: TrustDomain) -> None:
    counted = {
        failed("emulated gpu-a"): 1,
        "edge upstream_attempts gpu-a broken": 1,
        "gpu-a upstream_attempts gpu-a cancelled": 1,
        "gpu-a cancelled_upstream gpu-a client_gone": 1,
    }
    async with (
        running_mesh(BROKEN_NETWORK, trust=trust) as mesh,
        unharmed(mesh, counted=counted),
        await trio.open_tcp_stream(*mesh.router.client_address) as stream,
    ):
        await stream.send_all(completion_request(tokens=4_000, stream=True))
        received = bytes(await stream.receive_some())
        mesh.relays[0].cut()
        with trio.fail_after(5):
            async for piece in stream:
                received += piece
        assert received.count(b"stream_broken") == 1
        await wait_until(lambda: mesh.engine.server.drivers[MODEL].aborts, "the engine was told")
