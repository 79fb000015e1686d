"""What a client of gRPC is told of each way in which a runtime can answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import h2.errors
import pytest

from infermesh.testing.h2_peer import H2Peer, PeerStream
from infermesh.testing.waiting import wait_until
from tests.planes.data.calls import OK_END, OK_HEAD, hop, message, request_on, stay

Step = tuple[str, Sequence[tuple[str, str]] | bytes | int]
TYPE = ("content-type", "application/grpc")


def saying(*steps: Step) -> Callable[[H2Peer], Awaitable[None]]:
    """A runtime that reads a call and then does this: "head", "data", "end" (trailers), "only" (head with its end)."""

    async def script(peer: H2Peer) -> None:
        await request_on(peer)
        for kind, what in steps:
            match what:
                case bytes():
                    await peer.send_data(1, what, end=kind == "last")
                case int():
                    await peer.reset(1, what)
                case _:
                    await peer.send_headers(1, what, end=kind != "head")
        await stay(peer)

    return script


async def answer_to(*steps: Step) -> tuple[PeerStream, str]:
    """What the client got, and the verdict on the runtime."""
    async with hop(saying(*steps)) as between:
        between.host.retrying = False
        answer = await between.call(message(b"x"))
        await wait_until(lambda: between.ends, "the call has ended")
        [(_, verdict)] = between.host.ended
        return answer, verdict


async def test_head_messages_and_trailers_come_as_they_were_said() -> None:
    answer, verdict = await answer_to(
        ("head", [*OK_HEAD, ("x-a", "1")]),
        ("data", message(b"one") + message(b"two")),
        ("end", [*OK_END, ("x-b", "2")]),
    )
    assert answer.headers == {
        ":status": "200",
        "content-type": "application/grpc",
        "x-a": "1",
        "x-infermesh-node": "gpu-0",
    }
    assert bytes(answer.body) == message(b"one") + message(b"two")
    assert answer.trailers == {"grpc-status": "0", "x-b": "2"}
    assert (answer.ended, answer.reset, verdict) == (True, None, "ok")


async def test_fields_of_ours_do_not_come_from_a_runtime() -> None:
    answer, _ = await answer_to(
        ("head", [*OK_HEAD, ("x-infermesh-load", "i=1"), ("x-infermesh-node", "liar"), ("x-infermesh-x", "1")]),
        ("end", [*OK_END, ("x-infermesh-load", "i=1"), ("x-infermesh-code", "x")]),
    )
    assert {name: value for name, value in answer.headers.items() if name.startswith("x-")} == {
        "x-infermesh-node": "gpu-0"
    }
    assert answer.trailers == dict(OK_END)


@pytest.mark.parametrize(
    ("status", "verdict"),
    [
        ("3", "client_error"),
        ("5", "client_error"),
        ("8", "client_error"),
        ("2", "server_error"),
        ("13", "server_error"),
    ],
)
@pytest.mark.parametrize("alone", [True, False])
async def test_a_status_passes_and_is_held_against_whom_it_belongs_to(
    status: str, verdict: str, *, alone: bool
) -> None:
    end = [("grpc-status", status), ("grpc-message", "as told")]
    steps: list[Step] = [("only", [*OK_HEAD, *end])] if alone else [("head", OK_HEAD), ("end", end)]
    answer, found = await answer_to(*steps)
    said = {**answer.headers, **answer.trailers}
    assert (said["grpc-status"], said["grpc-message"]) == (status, "as told")
    assert found == verdict


@pytest.mark.parametrize(
    ("steps", "code", "words"),
    [
        ([("head", OK_HEAD), ("last", message(b"x"))], "2", "gave no grpc-status"),
        ([("only", OK_HEAD)], "2", "HTTP status 200 and no grpc-status"),
        ([("head", [*OK_HEAD, ("content-length", "0")]), ("end", [("grpc-status", "5")])], "5", ""),
        ([("only", [(":status", "404")])], "12", "gpu-0: HTTP status 404"),
        ([("only", [(":status", "401"), ("content-type", "text/html")])], "16", "HTTP status 401"),
        ([("head", [(":status", "502"), ("content-type", "text/html")]), ("last", b"<html>")], "14", "HTTP status 502"),
        ([("head", [(":status", "500")]), ("data", b"<html>"), ("end", [("x-a", "1")])], "2", "HTTP status 500"),
    ],
)
async def test_an_answer_that_is_no_grpc_ends_with_a_status_all_the_same(
    steps: list[Step], code: str, words: str
) -> None:
    answer, verdict = await answer_to(*steps)
    said = {**answer.headers, **answer.trailers}
    assert said["grpc-status"] == code
    assert words in said.get("grpc-message", "")
    assert answer.ended
    assert verdict in ("server_error", "client_error")
    assert said.get("x-infermesh-node") == "gpu-0"


@pytest.mark.parametrize("messages", [0, 1])
@pytest.mark.parametrize("code", [h2.errors.ErrorCodes.CANCEL, h2.errors.ErrorCodes.INTERNAL_ERROR])
async def test_a_call_that_breaks_off_is_never_ended_cleanly(code: int, messages: int) -> None:
    parts: list[Step] = [("data", message(b"one"))] * messages
    answer, verdict = await answer_to(("head", OK_HEAD), *parts, ("reset", int(code)))
    said = {**answer.headers, **answer.trailers}
    assert said["grpc-status"] == "14"
    assert "gpu-0: stream reset by the peer" in said["grpc-message"]
    assert ("incomplete" in said["grpc-message"]) is bool(messages)
    assert verdict == "broken"


async def test_an_answer_before_the_request_is_whole_ends_both() -> None:
    """A runtime that has heard enough. What the client still says is thrown away, and it is told so without error."""

    async def script(peer: H2Peer) -> None:
        await request_on(peer, size=5)
        await peer.send_headers(1, [*OK_HEAD, *OK_END], end=True)
        await stay(peer)

    async with hop(script) as between:
        stream_id = await between.ask(bytes(5))
        answer = await between.client.answer(stream_id)
        assert answer.headers["grpc-status"] == "0"
        assert answer.ended
        await between.client.send_data(stream_id, bytes(100_000))
        await between.client.read_until(lambda: answer.reset is not None)
        assert answer.reset == h2.errors.ErrorCodes.NO_ERROR


async def test_interim_heads_do_not_come_to_a_client_of_grpc() -> None:
    answer, verdict = await answer_to(("head", [(":status", "103")]), ("head", OK_HEAD), ("end", OK_END))
    assert answer.interim == []
    assert verdict == "ok"
