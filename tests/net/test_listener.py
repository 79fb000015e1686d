"""Accepting over real sockets: bounds, the lack of descriptors, and every way to end."""

from __future__ import annotations

import os
import resource
import socket
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field

import pytest
import trio

from infermesh.net.listener import Listener, ListenFailed, listen
from infermesh.testing.await_sites import AwaitSites, OnParked
from infermesh.testing.leftovers import descriptors
from infermesh.testing.waiting import wait_until

SITES = AwaitSites(["net/listener.py"])
SHORT_OF_DESCRIPTORS = "net/listener.py: Listener._accept_some: await trio.sleep(_NO_DESCRIPTORS_WAIT_S)"
ACCEPTING = "net/listener.py: Listener.run: await self._accept_some(nursery)"


@dataclass
class Served:
    listener: Listener
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    refused: int = 0
    ended: trio.Event = field(default_factory=trio.Event)


@asynccontextmanager
async def serving(connections_max: int = 10) -> AsyncGenerator[Served, None]:
    """Connections that say hello and then wait for their client's end. Nothing of it may be left."""
    before = descriptors()

    async def serve(sock: socket.socket) -> None:
        sock.send(b"hello")
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(sock.dup()))
        async with stream:
            while await stream.receive_some():
                pass

    def count() -> None:
        held.refused += 1

    listener = Listener(
        listen("127.0.0.1", 0), serve, connections_max=connections_max, turned_away=b"full", on_turned_away=count
    )
    held = Served(listener)

    async def run() -> None:
        with held.scope:
            await listener.run()
        held.ended.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        yield held
        held.scope.cancel()
        await held.ended.wait()
        assert listener.connections == 0
    assert descriptors() == before


@contextmanager
def no_descriptors_left() -> Iterator[None]:
    """This process may open no further one. What it has goes on."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest_free = os.dup(0)
    os.close(lowest_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_connections_are_counted_while_they_live() -> None:
    async with serving() as held:
        async with await trio.open_tcp_stream(*held.listener.address) as one:
            assert await one.receive_some() == b"hello"
            async with await trio.open_tcp_stream(*held.listener.address) as two:
                assert await two.receive_some() == b"hello"
                assert held.listener.connections == 2
        await wait_until(lambda: held.listener.connections == 0, "both are gone")


async def test_the_first_one_above_the_bound_is_told_so_and_the_next_place_is_given_again() -> None:
    async with serving(connections_max=1) as held:
        async with await trio.open_tcp_stream(*held.listener.address) as one:
            assert await one.receive_some() == b"hello"
            async with await trio.open_tcp_stream(*held.listener.address) as two:
                assert [bytes(piece) async for piece in two] == [b"full"]
            assert (held.listener.connections, held.refused) == (1, 1)
        await wait_until(lambda: held.listener.connections == 0, "it is gone")
        async with await trio.open_tcp_stream(*held.listener.address) as three:
            assert await three.receive_some() == b"hello"


async def test_closed_it_takes_no_new_connection_and_ends_when_the_old_ones_have() -> None:
    async with serving() as held:
        async with await trio.open_tcp_stream(*held.listener.address) as one:
            assert await one.receive_some() == b"hello"
            held.listener.close()
            await wait_until(lambda: held.listener.connections == 1, "the old one lives")
            with pytest.raises(OSError, match="connect"):
                while True:  # Until the socket is closed, at the listener's next turn.
                    async with await trio.open_tcp_stream(*held.listener.address):
                        await trio.lowlevel.checkpoint()
            assert not held.ended.is_set()
        with trio.fail_after(5):
            await held.ended.wait()


async def test_cancelled_it_ends_its_connections_as_well() -> None:
    async with serving() as held, await trio.open_tcp_stream(*held.listener.address) as one:
        assert await one.receive_some() == b"hello"
        held.scope.cancel()
        with trio.fail_after(5):
            await held.ended.wait()
            assert await one.receive_some() == b""


async def test_without_descriptors_a_connection_waits_in_the_kernel_and_is_taken_later() -> None:
    async with serving() as held:
        watch = OnParked(SITES, [SITES.named(ACCEPTING), SITES.named(SHORT_OF_DESCRIPTORS)], lambda task: None)
        with socket.socket() as client:
            with no_descriptors_left():
                trio.lowlevel.add_instrument(watch)
                client.connect(held.listener.address)
                with trio.fail_after(5):
                    await watch.acted.wait()
                trio.lowlevel.remove_instrument(watch)
            client.setblocking(False)
            await trio.lowlevel.wait_readable(client)
            assert client.recv(16) == b"hello"


async def test_cancelled_while_it_waits_for_descriptors_it_ends() -> None:
    async with serving() as held:
        sites = [SITES.named(ACCEPTING), SITES.named(SHORT_OF_DESCRIPTORS)]
        watch = OnParked(SITES, sites, lambda task: held.scope.cancel())
        with socket.socket() as client, no_descriptors_left():
            trio.lowlevel.add_instrument(watch)
            client.connect(held.listener.address)
            with trio.fail_after(5):
                await held.ended.wait()
            trio.lowlevel.remove_instrument(watch)
        assert watch.acted.is_set()


def test_an_address_that_is_taken_is_named() -> None:
    with listen("127.0.0.1", 0) as sock:
        host, port = sock.getsockname()
        with pytest.raises(ListenFailed, match=f"cannot listen on {host}:{port}: Address already in use"):
            listen(host, port)
