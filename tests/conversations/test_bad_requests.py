"""Requests that are wrong in themselves, through a whole mesh: each is answered, counted, and harms nobody else."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import trio

from infermesh.testing.bystander import unharmed
from infermesh.testing.certificates import TrustDomain
from infermesh.testing.completions import (
    PATH,
    completion_body,
    completion_request,
    error_code,
    expected_text,
    unary_text,
)
from infermesh.testing.h11_client import ClientAnswer, read_answers
from infermesh.testing.mesh import Mesh, running_mesh
from infermesh.testing.mesh_plan import MeshPlan
from infermesh.testing.waiting import wait_until

GET = b"GET /%b HTTP/1.1\r\nhost: mesh\r\n\r\n"
POST = b"POST /v1/completions HTTP/1.1\r\nhost: mesh\r\n"
# What a smuggler hides behind a request; if it is ever answered, the answer is a second one.
HIDDEN = b"GET /v1/models HTTP/1.1\r\nhost: mesh\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Bad:
    """Bytes of a client, the status and code of the one answer, and the reason it is counted under."""

    name: str
    sent: bytes
    status: int
    reason: str


def headers(count: int) -> bytes:
    return b"".join(b"x-%d: y\r\n" % number for number in range(count))


MALFORMED = (
    Bad("another preface than HTTP/2's", b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n", 400, "malformed"),
    Bad("lines without CR", b"GET /v1/models HTTP/1.1\nhost: mesh\n\n", 400, "malformed"),
    Bad("a bare CR", b"GET /v1/models HTTP/1.1\r\nhost: me\rsh\r\n\r\n", 400, "malformed"),
    Bad("a zero byte", b"GET /v1/models HTTP/1.1\r\nhost: mesh\r\nx: a\x00b\r\n\r\n", 400, "malformed"),
    Bad("no host", b"GET /v1/models HTTP/1.1\r\n\r\n", 400, "malformed"),
    Bad("two hosts", b"GET /v1/models HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n", 400, "malformed"),
    Bad("a folded line", b"GET /v1/models HTTP/1.1\r\nhost: mesh\r\nx: a\r\n b\r\n\r\n", 400, "malformed"),
    Bad("a blank before the colon", b"GET /v1/models HTTP/1.1\r\nhost : mesh\r\n\r\n", 400, "malformed"),
    Bad("two blanks in the first line", b"GET  /v1/models HTTP/1.1\r\nhost: mesh\r\n\r\n", 400, "malformed"),
    Bad("another authority", b"GET http://other/v1/models HTTP/1.1\r\nhost: mesh\r\n\r\n", 400, "malformed"),
    Bad("CONNECT", b"CONNECT mesh:443 HTTP/1.1\r\nhost: mesh:443\r\n\r\n", 405, "malformed"),
    Bad("an unknown expectation", POST + b"expect: wonders\r\ncontent-length: 2\r\n\r\n{}", 417, "expectation"),
)
OVERSIZED = (
    Bad("a head of 64 KiB and more", POST + b"x: " + b"a" * 65_536 + b"\r\n\r\n", 431, "head_oversized"),
    Bad("a head without an end", b"GET /" + b"a" * 70_000, 431, "head_oversized"),
    Bad("129 header lines", POST + headers(128) + b"\r\n", 431, "head_oversized"),
    Bad(
        "a target of 8 KiB and more",
        b"GET /" + b"a" * 8_192 + b" HTTP/1.1\r\nhost: mesh\r\n\r\n",
        414,
        "head_oversized",
    ),
    Bad("a body said to be too long", POST + b"content-length: 2049\r\n\r\n", 413, "body_oversized"),
    Bad(
        "chunks that are too long together",
        POST + b"transfer-encoding: chunked\r\n\r\n" + (b"400\r\n" + b" " * 1024 + b"\r\n") * 3 + b"0\r\n\r\n",
        413,
        "body_oversized",
    ),
    Bad(
        "one chunk said to be endless",
        POST + b"transfer-encoding: chunked\r\n\r\nfffffffffffffff\r\n" + b" " * 80_000,
        413,
        "body_oversized",
    ),
)
SMUGGLING = (
    Bad(
        "a length beside a coding",
        POST + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n" + HIDDEN,
        400,
        "smuggling",
    ),
    Bad(
        "a coding beside a length",
        POST + b"transfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n0\r\n\r\n" + HIDDEN,
        400,
        "smuggling",
    ),
    Bad("two lengths", POST + b"content-length: 2\r\ncontent-length: 44\r\n\r\n{}" + HIDDEN, 400, "smuggling"),
    Bad("two equal lengths", POST + b"content-length: 2\r\ncontent-length: 2\r\n\r\n{}" + HIDDEN, 400, "smuggling"),
    Bad("a list of lengths", POST + b"content-length: 2, 2\r\n\r\n{}" + HIDDEN, 400, "smuggling"),
    Bad("a length with a sign", POST + b"content-length: +2\r\n\r\n{}" + HIDDEN, 400, "smuggling"),
    Bad("a length of twenty digits", POST + b"content-length: 00000000000000000002\r\n\r\n{}", 400, "smuggling"),
    Bad(
        "a coding in HTTP/1.0",
        b"POST /v1/completions HTTP/1.0\r\nhost: mesh\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n" + HIDDEN,
        400,
        "smuggling",
    ),
    Bad("an unknown coding", POST + b"transfer-encoding: xchunked\r\n\r\n0\r\n\r\n" + HIDDEN, 400, "smuggling"),
    Bad("chunked twice", POST + b"transfer-encoding: chunked, chunked\r\n\r\n0\r\n\r\n" + HIDDEN, 400, "smuggling"),
    Bad(
        "a coding below chunked", POST + b"transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n" + HIDDEN, 501, "malformed"
    ),
    Bad("a hidden coding", POST + b"transfer-encoding:\x0bchunked\r\n\r\n0\r\n\r\n" + HIDDEN, 400, "malformed"),
    Bad("chunks with bare LF", POST + b"transfer-encoding: chunked\r\n\r\n2\n{}\n0\n\n" + HIDDEN, 400, "malformed"),
    Bad(
        "a chunk longer than it says",
        POST + b"transfer-encoding: chunked\r\n\r\n2\r\n{}}}\r\n0\r\n\r\n" + HIDDEN,
        400,
        "malformed",
    ),
    Bad("a chunk of no size", POST + b"transfer-encoding: chunked\r\n\r\n-2\r\n{}\r\n0\r\n\r\n", 400, "malformed"),
    Bad(
        "a chunk size in seventeen digits",
        POST + b"transfer-encoding: chunked\r\n\r\n10000000000000002\r\n{}\r\n0\r\n\r\n" + HIDDEN,
        400,
        "malformed",
    ),
)
PLAN = MeshPlan(router={"client.body_bytes_max": "2048"})


async def exchange(mesh: Mesh, sent: bytes) -> list[ClientAnswer]:
    """Send, and read until the router closes. It must do so by itself and without a reset."""
    with trio.fail_after(5):
        async with await trio.open_tcp_stream(*mesh.router.client_address) as stream:
            await stream.send_all(sent)
            received = b""
            async for piece in stream:
                received += piece
    return read_answers(received)


@pytest.mark.parametrize(
    "sent", [b"\x00\x01\x02 hello\r\n\r\n", b"GET /v1/models\r\n\r\n"], ids=["garbage", "HTTP/0.9"]
)
async def test_what_begins_as_no_http_of_ours_is_hung_up_on_without_a_word(trust: TrustDomain, sent: bytes) -> None:
    async with (
        running_mesh(PLAN, trust=trust) as mesh,
        unharmed(mesh, counted={"edge bad_requests client malformed": 1}),
    ):
        assert await exchange(mesh, sent) == []


@pytest.mark.parametrize("bad", [*MALFORMED, *OVERSIZED, *SMUGGLING], ids=lambda bad: bad.name)
async def test_a_request_that_is_no_http_is_answered_once_and_its_connection_ends(trust: TrustDomain, bad: Bad) -> None:
    async with (
        running_mesh(PLAN, trust=trust) as mesh,
        unharmed(mesh, counted={f"edge bad_requests client {bad.reason}": 1}),
    ):
        [answer] = await exchange(mesh, bad.sent)
        assert answer.status == bad.status
        assert answer.headers["connection"] == "close"
        assert answer.headers["content-type"] == "application/json"
        assert error_code(answer.body) == bad.reason


@dataclass(frozen=True, slots=True)
class Wrong:
    """A request in good HTTP that cannot be served: its connection lives on."""

    name: str
    body: bytes
    status: int
    code: str
    reason: str
    path: str = PATH
    method: str = "POST"
    headers: tuple[tuple[str, str], ...] = ()


WRONG = (
    Wrong("a model that nobody serves", completion_body(model="nobody"), 404, "model_not_found", "unknown_model"),
    Wrong("a model with odd letters", completion_body(model='\n"\u2028'), 404, "model_not_found", "unknown_model"),
    Wrong("no JSON", b"prompt=hello", 400, "invalid_json", "not_json"),
    Wrong("broken JSON", b'{"model": "emulated-8b", "prompt": "hel', 400, "invalid_json", "not_json"),
    Wrong("JSON that is not UTF-8", b'{"model": "\xff\xfe"}', 400, "invalid_json", "not_json"),
    Wrong("no body", b"", 400, "invalid_json", "not_json"),
    Wrong(
        "JSON nested without end",
        b'{"model": "emulated-8b", "prompt": ' + b"[" * 1_900,
        400,
        "invalid_json",
        "not_json",
    ),
    Wrong("a list in place of an object", b"[1, 2]", 400, "invalid_body", "not_json"),
    Wrong("no model", b'{"prompt": "hello"}', 400, "invalid_body", "not_json"),
    Wrong("a model that is a number", b'{"model": 8}', 400, "invalid_body", "not_json"),
    Wrong("an empty model", b'{"model": ""}', 400, "invalid_model", "not_json"),
    Wrong("a model of 257 letters", completion_body(model="m" * 257), 400, "invalid_model", "not_json"),
    Wrong("max_tokens in words", b'{"model": "emulated-8b", "max_tokens": "ten"}', 400, "invalid_body", "not_json"),
    Wrong("a path that is not served", completion_body(), 404, "unknown_path", "unknown_path", path="/v1/nothing"),
    Wrong("a method that is not served", b"", 405, "method_not_allowed", "other", method="GET"),
    Wrong("models by POST", completion_body(), 405, "method_not_allowed", "other", path="/v1/models"),
    Wrong(
        "one model that nobody serves", b"", 404, "model_not_found", "unknown_model", path="/v1/models/x", method="GET"
    ),
    Wrong(
        "a priority that does not exist",
        completion_body(),
        400,
        "invalid_priority",
        "other",
        headers=(("x-infermesh-priority", "first"),),
    ),
    Wrong(
        "a deadline in words",
        completion_body(),
        400,
        "invalid_deadline",
        "other",
        headers=(("x-infermesh-deadline-ms", "soon"),),
    ),
    Wrong(
        "a deadline that is no number",
        completion_body(),
        400,
        "invalid_deadline",
        "other",
        headers=(("x-infermesh-deadline-ms", "nan"),),
    ),
)


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: wrong.name)
async def test_a_request_that_cannot_be_served_is_refused_and_its_connection_lives_on(
    trust: TrustDomain, wrong: Wrong
) -> None:
    async with (
        running_mesh(PLAN, trust=trust) as mesh,
        unharmed(mesh, counted={f"edge bad_requests client {wrong.reason}": 1}),
        await mesh.client() as client,
    ):
        answer = await client.fetch(wrong.method, wrong.path, wrong.body, wrong.headers)
        assert answer.status == wrong.status
        assert error_code(answer.body) == wrong.code
        assert answer.headers["content-type"] == "application/json"
        good = await client.fetch("POST", PATH, completion_body())
        assert unary_text(good.body) == expected_text("hello", 4)


async def test_a_runtimes_own_refusal_reaches_the_client_and_is_nobodys_fault(trust: TrustDomain) -> None:
    counted = {
        "edge inferences emulated-8b emulated gpu-a client_error": 1,
        "edge upstream_attempts gpu-a client_error": 1,
        "gpu-a upstream_attempts gpu-a client_error": 1,
    }
    async with (
        running_mesh(PLAN, trust=trust) as mesh,
        unharmed(mesh, counted=counted),
        await mesh.client() as client,
    ):
        answer = await client.fetch("POST", PATH, b'{"model": "emulated-8b", "prompt": "x", "n": 2}')
        assert answer.status == 400
        assert answer.headers["x-infermesh-node"] == "gpu-a"
        assert mesh.router.node.sources.view().eligible, "a client's error took a target out of choice"


# --- Slow ---


async def test_a_head_that_drips_is_refused_when_its_time_is_over(trust: TrustDomain) -> None:
    plan = MeshPlan(router={"client.head_timeout_s": "0.1"})
    async with (
        running_mesh(plan, trust=trust) as mesh,
        unharmed(mesh, counted={"edge bad_requests client head_timed_out": 1}),
    ):
        [answer] = await drip(mesh, POST)
        assert answer.status == 408
        assert error_code(answer.body) == "head_timed_out"


async def test_a_body_that_drips_is_refused_when_its_time_is_over(trust: TrustDomain) -> None:
    plan = MeshPlan(router={"client.body_timeout_s": "0.1"})
    async with (
        running_mesh(plan, trust=trust) as mesh,
        unharmed(mesh, counted={"edge bad_requests client body_timed_out": 1}),
    ):
        [answer] = await drip(mesh, b" " * 100, POST + b"content-length: 100\r\n\r\n")
        assert answer.status == 408
        assert error_code(answer.body) == "body_timed_out"


async def drip(mesh: Mesh, drops: bytes, at_once: bytes = b"") -> list[ClientAnswer]:
    """Send one byte after the other, each well before any timeout of silence, until the router has had enough."""
    received = b""
    with trio.fail_after(5):
        async with await trio.open_tcp_stream(*mesh.router.client_address) as stream:
            await stream.send_all(at_once)
            for drop in drops:
                await stream.send_all(bytes([drop]))
                with trio.move_on_after(0.01):
                    received += bytes(await stream.receive_some())
                    break
            async for piece in stream:
                received += piece
    return read_answers(received)


@pytest.mark.slow
async def test_many_slow_heads_take_no_slot_from_anybody(trust: TrustDomain) -> None:
    plan = MeshPlan(router={"client.head_timeout_s": "0.3", "client.connections_max": "60"})
    async with (
        running_mesh(plan, trust=trust) as mesh,
        unharmed(mesh, counted={"edge bad_requests client head_timed_out": 50}),
    ):
        streams = [await trio.open_tcp_stream(*mesh.router.client_address) for _ in range(50)]
        for stream in streams:
            await stream.send_all(b"POST /v1/comp")
        async with await mesh.client() as client:
            assert (await client.fetch("POST", PATH, completion_body())).status == 200
        with trio.fail_after(5):
            for stream in streams:
                async with stream:
                    [answer] = read_answers(b"".join([bytes(piece) async for piece in stream]))
                    assert answer.status == 408


async def test_a_connection_that_says_nothing_is_closed_without_a_word_and_is_no_fault(trust: TrustDomain) -> None:
    plan = MeshPlan(router={"client.idle_timeout_s": "0.1"})
    # The bystander's own connection would be idle as well, were its stream not under way.
    async with running_mesh(plan, trust=trust) as mesh, unharmed(mesh, counted={}):
        assert await exchange(mesh, b"") == []


async def test_connections_above_the_limit_are_told_so_and_counted(trust: TrustDomain) -> None:
    plan = MeshPlan(router={"client.connections_max": "2"})
    async with (
        running_mesh(plan, trust=trust) as mesh,
        unharmed(mesh, counted={"edge connections_refused client": 1}),
        await mesh.client() as client,
    ):
        assert (await client.fetch("POST", PATH, completion_body())).status == 200
        [answer] = await exchange(mesh, b"")
        assert answer.status == 503
        assert answer.headers["retry-after"] == "1"
        assert error_code(answer.body) == "too_many_connections"


# --- Pipelined ---


async def test_pipelined_requests_are_answered_in_their_order_whatever_each_of_them_is(trust: TrustDomain) -> None:
    counted = {"edge bad_requests client unknown_model": 1, "edge bad_requests client malformed": 1}
    async with running_mesh(PLAN, trust=trust) as mesh, unharmed(mesh, counted=counted):
        answers = await exchange(
            mesh,
            completion_request("one", 12)
            + completion_request("two", 3, stream=True)
            + completion_request(model="nobody")
            + b"GET /v1/models HTTP/1.1\r\nhost: mesh\r\n\r\n"
            + completion_request("three", 2)
            + b"\x00\r\n\r\n"
            + HIDDEN,
        )
        assert [answer.status for answer in answers] == [200, 200, 404, 200, 200, 400]
        assert unary_text(answers[0].body) == expected_text("one", 12)
        assert answers[1].body.endswith(b"data: [DONE]\n\n")
        assert unary_text(answers[4].body) == expected_text("three", 2)


@pytest.mark.slow
async def test_more_pipelined_requests_than_may_be_kept_wait_in_the_kernel_and_all_are_answered(
    trust: TrustDomain,
) -> None:
    count = 40
    prompt = "x" * 8_000  # 40 of these are far more than a connection keeps of what is not yet its turn.
    plan = MeshPlan(router={"client.body_bytes_max": "16384"})
    counted = {"edge bad_requests client malformed": 1}
    async with running_mesh(plan, trust=trust) as mesh, unharmed(mesh, counted=counted):
        mesh.engine.faults.frozen = True
        received = bytearray()

        async def read(stream: trio.SocketStream) -> None:
            async for piece in stream:
                received.extend(piece)

        with trio.fail_after(10):
            async with (
                await trio.open_tcp_stream(*mesh.router.client_address) as stream,
                trio.open_nursery() as nursery,
            ):
                nursery.start_soon(read, stream)
                nursery.start_soon(stream.send_all, completion_request(prompt, 1) * count + b"\x00\r\n\r\n")
                await wait_until(lambda: mesh.engine.server.stats.running == 1, "the first one is with the engine")
                mesh.engine.faults.frozen = False
        answers = read_answers(bytes(received))
        assert [answer.status for answer in answers] == [200] * count + [400]


# --- What a client may not say ---


async def test_the_meshs_own_fields_are_not_taken_from_a_client(trust: TrustDomain) -> None:
    """Else a client could choose the runtime, or read another one's load."""
    names = ("x-infermesh-model", "x-infermesh-replica", "x-infermesh-request-id", "x-infermesh-load")
    async with running_mesh(PLAN, trust=trust) as mesh, unharmed(mesh, counted={}), await mesh.client() as client:
        for name in names:
            answer = await client.fetch("POST", PATH, completion_body(), [(name, "7"), ("connection", name)])
            assert answer.status == 200, name
            assert answer.headers["x-infermesh-request-id"] != "7"
            assert "x-infermesh-load" not in answer.headers
