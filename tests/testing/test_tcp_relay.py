from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest
import trio

from infermesh.testing.tcp_relay import RelayMode, TcpRelay, serve_tcp_relay
from infermesh.testing.waiting import wait_until


async def echo(stream: trio.SocketStream) -> None:
    async with stream:
        try:
            while data := await stream.receive_some():
                await stream.send_all(data)
        except trio.BrokenResourceError:
            return


@asynccontextmanager
async def relay() -> AsyncGenerator[TcpRelay, None]:
    """In front of an echo."""
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, echo, 0)
        found: TcpRelay = await nursery.start(serve_tcp_relay, ("127.0.0.1", listeners[0].socket.getsockname()[1]))
        with trio.fail_after(5):
            yield found
        nursery.cancel_scope.cancel()


async def test_bytes_pass_both_ways_and_an_end_is_passed_on() -> None:
    async with relay() as found:
        async with await trio.open_tcp_stream(*found.address) as stream:
            await stream.send_all(b"hello")
            assert await stream.receive_some() == b"hello"
            assert found.connections == 1
        await wait_until(lambda: found.connections == 0, "it is gone")


async def test_each_connection_meets_the_target_of_its_moment() -> None:
    async with relay() as first, relay() as second, await trio.open_tcp_stream(*first.address) as old:
        await old.send_all(b"1")
        assert await old.receive_some() == b"1"
        first.target = second.address
        async with await trio.open_tcp_stream(*first.address) as new:
            await new.send_all(b"2")
            assert await new.receive_some() == b"2"
        assert second.taken == 1
        await old.send_all(b"3")
        assert await old.receive_some() == b"3"


@pytest.mark.parametrize("mode", [RelayMode.RESET, RelayMode.CLOSE])
async def test_a_mode_is_for_the_next_connections_alone(mode: RelayMode) -> None:
    async with relay() as found, await trio.open_tcp_stream(*found.address) as old:
        await old.send_all(b"1")
        assert await old.receive_some() == b"1"
        found.mode = mode
        async with await trio.open_tcp_stream(*found.address) as new:
            await new.send_all(b"2")
            if mode is RelayMode.CLOSE:
                assert await new.receive_some() == b""
            else:
                with pytest.raises(trio.BrokenResourceError):
                    await new.receive_some()
        await old.send_all(b"3")
        assert await old.receive_some() == b"3"


async def test_a_silent_one_takes_everything_and_says_nothing() -> None:
    async with relay() as found:
        found.mode = RelayMode.SILENT
        async with await trio.open_tcp_stream(*found.address) as stream:
            await stream.send_all(b"1" * 1000)
            with trio.move_on_after(0.05) as waited:
                await stream.receive_some()
            assert waited.cancelled_caught


async def test_what_comes_back_may_stop_after_some_bytes() -> None:
    async with relay() as found, await trio.open_tcp_stream(*found.address) as stream:
        found.stop_after_bytes = 3
        await stream.send_all(b"hello")
        assert await stream.receive_some() == b"hel"
        await stream.send_all(b"more")
        with trio.move_on_after(0.05) as waited:
            await stream.receive_some()
        assert waited.cancelled_caught


async def test_a_cut_resets_what_is_open_and_takes_new_connections() -> None:
    async with relay() as found:
        async with await trio.open_tcp_stream(*found.address) as stream:
            await stream.send_all(b"1")
            assert await stream.receive_some() == b"1"
            found.cut()
            with pytest.raises(trio.BrokenResourceError):
                await stream.receive_some()
        async with await trio.open_tcp_stream(*found.address) as stream:
            await stream.send_all(b"2")
            assert await stream.receive_some() == b"2"


async def test_refusing_leaves_what_is_open_alone() -> None:
    async with relay() as found, await trio.open_tcp_stream(*found.address) as stream:
        await stream.send_all(b"1")
        assert await stream.receive_some() == b"1"
        found.refuse()
        await found.closed.wait()
        with pytest.raises(OSError, match="failed"):
            await trio.open_tcp_stream(*found.address)
        await stream.send_all(b"2")
        assert await stream.receive_some() == b"2"
