"""The driver in virtual time, against servers that stall, refuse, break and lie; nothing is spared, all is counted."""

from __future__ import annotations

import errno
import math
from collections.abc import Awaitable, Callable, Sequence

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from infermesh.cli.replay.client import ReplayClient, StreamWire, Wire
from infermesh.cli.replay.driver import ReplayDriver
from infermesh.cli.replay.ledger import Ledger, Status
from infermesh.cli.replay.plan import Arrival
from infermesh.cli.replay.prompts import PromptWriter, RequestWriter
from infermesh.cli.replay.report import make_report

Serve = Callable[[trio.abc.Stream], Awaitable[None]]

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
DONE = b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"
TIMEOUT_S = 30.0


def _chunk(payload: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(payload), payload)


def _token() -> bytes:
    return _chunk(b'data: {"choices":[{"text":"a"}]}\n\n')


def _refusal(status: int, extra: bytes = b"") -> bytes:
    body = b'{"error":{"message":"said %d"}}' % status
    return b"HTTP/1.1 %d Words\r\n%bcontent-length: %d\r\n\r\n%b" % (status, extra, len(body), body)


async def _read_request(stream: trio.abc.Stream) -> bool:
    """False when the client left instead."""
    data = b""
    while b"\r\n\r\n" not in data:
        piece = await stream.receive_some()
        if not piece:
            return False
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    missing = int(head.partition(b"content-length: ")[2].split(b"\r\n")[0]) - len(body)
    while missing > 0:
        missing -= len(await stream.receive_some())
    return True


async def _replay(
    times: Sequence[float], serve: Serve, *, connections_max: int = 100, cancel_after_tokens: int = 0
) -> Ledger:
    """Send at these times to a server that runs `serve` for every connection."""
    ledger = Ledger()
    async with trio.open_nursery() as nursery:

        async def dial() -> Wire:
            ours, theirs = trio.testing.memory_stream_pair()
            nursery.start_soon(serve, theirs)
            return StreamWire(ours)

        client = ReplayClient(dial, connections_max=connections_max)
        writer = RequestWriter(PromptWriter(), authority="fake", base_path="", model="m", chat=False)
        driver = ReplayDriver(client, writer, ledger, timeout_s=TIMEOUT_S)
        await driver.drive(
            Arrival(
                number=number,
                at_s=at_s,
                prompt_tokens=10,
                output_tokens=3,
                cancel_after_tokens=cancel_after_tokens,
            )
            for number, at_s in enumerate(times)
        )
        assert client.in_flight == 0
        await client.aclose()
        await trio.sleep(1.0)  # For servers to see that their clients are gone.
        nursery.cancel_scope.cancel()
    ledger.check(sent=len(times))
    return ledger


async def _answer_steadily(stream: trio.abc.Stream) -> None:
    """First token after 100 ms, then two more, 50 ms apart; keeps the connection."""
    while await _read_request(stream):
        await stream.send_all(HEAD)
        await trio.sleep(0.1)
        await stream.send_all(_token())
        await trio.sleep(0.05)
        await stream.send_all(_token())
        await trio.sleep(0.05)
        await stream.send_all(_token() + DONE)


async def test_times_of_a_steady_server_are_exact(autojump_clock: MockClock) -> None:
    ledger = await _replay([0.0, 0.04, 1.0], _answer_steadily)
    for passage in ledger.passages:
        assert passage.status is Status.COMPLETED
        assert (passage.tokens, passage.flowing) == (3, True)
        assert passage.ttft_s == pytest.approx(0.1)
        assert passage.mean_gap_s == pytest.approx(0.05)
        assert passage.total_s == pytest.approx(0.2)
    assert list(ledger.gaps_s) == pytest.approx([0.05] * 6)
    report = make_report(ledger, sent=3, ttft_slo_ms=101.0, itl_slo_ms=51.0)
    assert (report.completed, report.goodput.share) == (3, 1.0)
    assert report.ttft_ms.p99 == pytest.approx(100.0)


async def test_arrivals_go_out_on_time_while_the_server_says_nothing(autojump_clock: MockClock) -> None:
    """A stall of two seconds: a client that waited for answers would report one slow request in place of all."""
    sent_at: list[float] = []
    began = trio.current_time()

    async def stall_until_two(stream: trio.abc.Stream) -> None:
        while await _read_request(stream):
            sent_at.append(trio.current_time() - began)
            await trio.sleep_until(began + 2.05)
            await stream.send_all(HEAD + _token() + DONE)

    times = [number / 10 for number in range(20)]
    ledger = await _replay(times, stall_until_two)
    assert sent_at == pytest.approx([at_s + 0.05 for at_s in times])
    assert [passage.ttft_s for passage in ledger.passages] == pytest.approx([2.0 - at_s for at_s in times])
    report = make_report(ledger, sent=20, ttft_slo_ms=500.0, itl_slo_ms=1.0)
    assert report.ttft_ms.p50 == pytest.approx(1_000.0, abs=101.0)
    assert report.goodput.requests == 5


async def test_a_machine_that_sends_late_has_its_delay_in_the_figures(autojump_clock: MockClock) -> None:
    """The wait between the intended moment and the send counts, whoever caused it."""

    ledger = Ledger()
    async with trio.open_nursery() as nursery:

        async def dial() -> Wire:
            await trio.sleep(0.7)
            ours, theirs = trio.testing.memory_stream_pair()
            nursery.start_soon(_answer_steadily, theirs)
            return StreamWire(ours)

        writer = RequestWriter(PromptWriter(), authority="fake", base_path="", model="m", chat=False)
        driver = ReplayDriver(ReplayClient(dial, connections_max=9), writer, ledger, timeout_s=TIMEOUT_S)
        await driver.drive([Arrival(number=0, at_s=0.5, prompt_tokens=10, output_tokens=3)])
        nursery.cancel_scope.cancel()
    assert ledger.passages[0].ttft_s == pytest.approx(0.8)


@pytest.mark.parametrize(
    ("answer", "status", "cause", "detail"),
    [
        (_refusal(429, b"retry-after: 7\r\n"), Status.REJECTED, "http 429", "said 429"),
        (_refusal(503), Status.REJECTED, "http 503", "said 503"),
        (_refusal(502), Status.FAILED, "http 502", "said 502"),
        (_refusal(404), Status.CLIENT_ERROR, "http 404", "said 404"),
        (HEAD + _token(), Status.FAILED, "broken", "the connection was closed inside the answer"),
        (
            HEAD + _token() + _chunk(b'data: {"error":{"message":"x"}}\n\n'),
            Status.FAILED,
            "error event",
            "x",
        ),
        (HEAD + _token() + b"0\r\n\r\n", Status.FAILED, "truncated", "the stream ended without its [DONE]"),
        (b"SSH-2.0-x\r\n", Status.FAILED, "garbage", None),
        (b"", Status.FAILED, "broken", "the connection was closed inside the answer"),
    ],
    ids=["429", "503", "502", "404", "cut", "error-event", "no-done", "garbage", "nothing"],
)
async def test_every_end_is_counted_as_what_it_is(
    autojump_clock: MockClock, answer: bytes, status: Status, cause: str, detail: str | None
) -> None:
    async def say_and_close(stream: trio.abc.Stream) -> None:
        await _read_request(stream)
        if answer:
            await stream.send_all(answer)
        await stream.aclose()

    passage = (await _replay([0.0], say_and_close)).passages[0]
    assert (passage.status, passage.cause) == (status, cause)
    assert detail is None or passage.detail == detail
    assert passage.retry_after_s == (7.0 if b"retry-after" in answer else None)


async def test_an_answer_that_never_ends_is_given_up_and_counted(autojump_clock: MockClock) -> None:
    async def say_nothing(stream: trio.abc.Stream) -> None:
        await _read_request(stream)
        await trio.sleep_forever()

    passage = (await _replay([1.0], say_nothing)).passages[0]
    assert (passage.status, passage.cause) == (Status.FAILED, "timed out")
    assert passage.total_s == pytest.approx(TIMEOUT_S)


async def test_a_client_that_leaves_halfway_is_cancelled_and_its_connection_closed(autojump_clock: MockClock) -> None:
    left_at: list[float] = []
    began = trio.current_time()

    async def endless(stream: trio.abc.Stream) -> None:
        await _read_request(stream)
        await stream.send_all(HEAD)
        try:
            while True:
                await trio.sleep(0.1)
                await stream.send_all(_token())
        except trio.BrokenResourceError:
            left_at.append(trio.current_time() - began)

    ledger = await _replay([0.0], endless, cancel_after_tokens=3)
    assert (ledger.passages[0].status, ledger.passages[0].cause) == (Status.CANCELLED, "planned")
    assert ledger.passages[0].tokens == 3
    assert not ledger.gaps_s, "gaps are those of completed answers"
    assert left_at == [pytest.approx(0.45)]


async def test_beyond_its_connections_the_client_owns_up(autojump_clock: MockClock) -> None:
    async def say_nothing(stream: trio.abc.Stream) -> None:
        await trio.sleep_forever()

    ledger = await _replay([0.0, 0.1, 0.2], say_nothing, connections_max=2)
    assert [passage.cause for passage in ledger.passages] == ["timed out", "timed out", "connections_max"]
    assert ledger.passages[2].status is Status.CLIENT_ERROR


@pytest.mark.parametrize(
    ("error", "status", "cause"),
    [
        (OSError(errno.EMFILE, "Too many open files"), Status.CLIENT_ERROR, "EMFILE"),
        (ConnectionRefusedError(errno.ECONNREFUSED, "refused"), Status.FAILED, "connect"),
        (None, Status.FAILED, "connect"),
    ],
    ids=["no-descriptor", "refused", "no-answer"],
)
async def test_what_this_machine_lacks_is_not_the_servers_failure(
    autojump_clock: MockClock, error: OSError | None, status: Status, cause: str
) -> None:
    async def dial() -> Wire:
        if error is None:
            await trio.sleep_forever()
        assert error is not None
        raise error

    ledger = Ledger()
    writer = RequestWriter(PromptWriter(), authority="fake", base_path="", model="m", chat=False)
    driver = ReplayDriver(ReplayClient(dial, connections_max=9), writer, ledger, timeout_s=TIMEOUT_S)
    await driver.drive([Arrival(number=0, at_s=0.0, prompt_tokens=1, output_tokens=1)])
    assert (ledger.passages[0].status, ledger.passages[0].cause) == (status, cause)


async def test_a_connection_is_kept_and_one_that_died_idle_is_replaced_without_a_word(
    autojump_clock: MockClock,
) -> None:
    connections = 0

    async def answer_once(stream: trio.abc.Stream) -> None:
        nonlocal connections
        connections += 1
        await _read_request(stream)
        await stream.send_all(HEAD + _token() + DONE)
        await stream.aclose()

    ledger = await _replay([0.0, 1.0], answer_once)
    assert ledger.settled == {Status.COMPLETED: 2}
    assert connections == 2

    ledger = await _replay([0.0, 1.0, 2.0], _answer_steadily)
    assert ledger.settled == {Status.COMPLETED: 3}


@pytest.mark.parametrize("after_s", [0.02, 0.07, 0.17, 0.22, math.inf])
async def test_stopped_anywhere_the_books_add_up_and_no_connection_is_left(
    autojump_clock: MockClock, after_s: float
) -> None:
    ledger = Ledger()
    open_connections = 0

    async with trio.open_nursery() as nursery:

        async def serve(stream: trio.abc.Stream) -> None:
            nonlocal open_connections
            open_connections += 1
            try:
                await _answer_steadily(stream)
            except trio.BrokenResourceError:
                return  # The client left.
            finally:
                open_connections -= 1

        async def dial() -> Wire:
            ours, theirs = trio.testing.memory_stream_pair()
            nursery.start_soon(serve, theirs)
            await trio.sleep(0.01)
            return StreamWire(ours)

        client = ReplayClient(dial, connections_max=9)
        writer = RequestWriter(PromptWriter(), authority="fake", base_path="", model="m", chat=False)
        driver = ReplayDriver(client, writer, ledger, timeout_s=TIMEOUT_S)
        with trio.move_on_after(after_s):
            await driver.drive(
                Arrival(number=number, at_s=number / 10, prompt_tokens=1, output_tokens=3) for number in range(4)
            )
        ledger.check(sent=driver.due)
        assert client.in_flight == 0
        await client.aclose()
        await trio.sleep(1.0)  # Servers see it when they send next.
        assert open_connections == 0
        nursery.cancel_scope.cancel()
    stopped = [passage for passage in ledger.passages if passage.status is not Status.COMPLETED]
    assert {(passage.status, passage.cause) for passage in stopped} <= {(Status.CANCELLED, "stopped")}
