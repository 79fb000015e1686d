"""Messages of one call between the reactor that brings them and the task that takes them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import trio
import trio.testing

from infermesh.net.grpc.inbox import Inbox
from infermesh.net.http2.stream import Http2Stream
from infermesh.testing.reactors import RunningReactor, running_reactor
from wire.grpc import Code, Encoding, RpcError, encode_message


class Endpoint:
    """As much of a connection as a stream asks for while it is only paused and resumed."""

    closed = False
    backlog_len = 0

    def __init__(self, reactor: object) -> None:
        self.reactor = reactor


def stream_of(running: RunningReactor) -> Http2Stream:
    return Http2Stream(Endpoint(running.reactor), 1)  # type: ignore[arg-type]


def inbox_of(stream: Http2Stream, message_bytes_max: int = 1000) -> Inbox:
    return Inbox(stream, message_bytes_max)


async def test_messages_are_taken_in_order_and_the_end_after_them() -> None:
    async with running_reactor() as running:
        inbox = inbox_of(stream_of(running))
        inbox.feed(encode_message(b"a") + encode_message(b"b"))
        inbox.finish()
        assert [await inbox.receive(), await inbox.receive(), await inbox.receive()] == [b"a", b"b", None]


@pytest.mark.parametrize(
    ("act", "expected"),
    [
        (lambda inbox: inbox.feed(encode_message(b"a")), b"a"),
        (lambda inbox: inbox.finish(), None),
        (lambda inbox: inbox.fail(RpcError(Code.CANCELLED)), "failed"),
    ],
)
async def test_who_waits_is_woken_by_a_message_by_the_end_and_by_a_failure(
    act: Callable[[Inbox], None], expected: object
) -> None:
    got: list[object] = []

    async def take() -> None:
        try:
            got.append(await inbox.receive())
        except RpcError:
            got.append("failed")

    async with running_reactor() as running, trio.open_nursery() as nursery:
        inbox = inbox_of(stream_of(running))
        nursery.start_soon(take)
        await trio.testing.wait_all_tasks_blocked()
        act(inbox)
    assert got == [expected]


async def test_a_stream_is_paused_while_whole_messages_wait_and_resumed_as_they_are_taken() -> None:
    async with running_reactor() as running:
        stream = stream_of(running)
        inbox = inbox_of(stream, 1 << 20)
        message = encode_message(bytes(30_000))
        inbox.feed(message * 2)
        seen = [stream.paused]
        inbox.feed(message)
        seen.append(stream.paused)
        assert len(inbox.take() or b"") == 30_000
        seen.append(stream.paused)
        assert seen == [False, True, False]


async def test_an_unfinished_message_never_pauses_since_it_may_be_larger_than_the_window() -> None:
    async with running_reactor() as running:
        stream = stream_of(running)
        inbox = inbox_of(stream, 1 << 20)
        inbox.feed(encode_message(bytes(1 << 20))[:-1])
        assert not stream.paused


async def test_what_lies_beyond_a_few_messages_stays_raw_and_comes_out_all_the_same() -> None:
    async with running_reactor() as running:
        stream = stream_of(running)
        inbox = inbox_of(stream)
        sent = [b"%d" % number for number in range(5_000)]
        wire = b"".join(encode_message(each) for each in sent)
        for start in range(0, len(wire), 1_000):
            inbox.feed(wire[start : start + 1_000])
        assert inbox.waiting < 300
        inbox.finish()
        got = []
        while (message := await inbox.receive()) is not None:
            got.append(message)
        assert got == sent
        assert not stream.paused


async def test_a_fault_in_what_stayed_raw_is_raised_to_who_takes_it() -> None:
    async with running_reactor() as running:
        inbox = inbox_of(stream_of(running))
        for _ in range(70):
            inbox.feed(encode_message(b"x"))
        inbox.feed(b"\x07\x00\x00\x00\x00")
        # What came raw with it goes with it: the call is at its end.
        for _ in range(64):
            assert inbox.take() == b"x"
        with pytest.raises(RpcError, match="flag 0x07"):
            inbox.take()


async def test_a_cut_in_what_stayed_raw_is_raised_too() -> None:
    async with running_reactor() as running:
        inbox = inbox_of(stream_of(running))
        for _ in range(70):
            inbox.feed(encode_message(b"x"))
        inbox.feed(b"\x00\x00")
        inbox.finish()
        with pytest.raises(RpcError, match="ended inside"):
            for _ in range(71):
                inbox.take()


async def test_messages_are_inflated_as_they_are_taken() -> None:
    async with running_reactor() as running:
        inbox = inbox_of(stream_of(running))
        inbox.encoding = Encoding.GZIP
        inbox.feed(encode_message(bytes(900), Encoding.GZIP))
        assert inbox.take() == bytes(900)


async def test_after_a_failure_nothing_of_what_waited_is_given_out() -> None:
    async with running_reactor() as running:
        inbox = inbox_of(stream_of(running))
        inbox.feed(encode_message(b"a"))
        inbox.fail(RpcError(Code.DEADLINE_EXCEEDED, "first"))
        inbox.fail(RpcError(Code.CANCELLED, "second"))
        with pytest.raises(RpcError, match="first"):
            inbox.take()
