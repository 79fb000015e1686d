"""Dialling over real sockets: whatever ends it, no descriptor is left open."""

from __future__ import annotations

import socket
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager, contextmanager

import pytest
import trio

from infermesh.net.dial import _connect, dial
from infermesh.testing.await_sites import AwaitSites, OnParked
from infermesh.testing.leftovers import descriptors

SITES = AwaitSites(["net/dial.py"])
CONNECTING = "net/dial.py: _connect: await trio.lowlevel.wait_writable(sock)"
RESOLVING = "net/dial.py: _resolve: await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)"


def soon() -> float:
    return trio.current_time() + 5


@contextmanager
def listening() -> Iterator[tuple[str, int]]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()


@contextmanager
def unreachable() -> Iterator[tuple[str, int]]:
    """Nobody takes what the kernel has accepted there: a further connection gets no answer to its SYN."""
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
        try:
            yield full.getsockname()
        finally:
            for filler in fillers:
                filler.close()


class Resolver(trio.abc.HostnameResolver):
    """Answers nothing, or with one address."""

    def __init__(self, answer: tuple[str, int] | None = None) -> None:
        self._answer = answer

    async def getaddrinfo(  # type: ignore[override]
        self, host: object, port: object, family: int = 0, type: int = 0, proto: int = 0, flags: int = 0
    ) -> list[tuple[int, int, int, str, tuple[str, int]]]:
        if self._answer is None:
            await trio.sleep_forever()
        assert self._answer is not None
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", self._answer)]

    async def getnameinfo(self, sockaddr: object, flags: int) -> tuple[str, str]:
        raise NotImplementedError


@asynccontextmanager
async def no_descriptor_is_left() -> AsyncGenerator[None, None]:
    before = descriptors()
    yield
    assert descriptors() == before


async def cancelled_at(site: str, address: tuple[str, int]) -> None:
    scope = trio.CancelScope()
    watch = OnParked(SITES, [SITES.named(site)], lambda task: scope.cancel())
    trio.lowlevel.add_instrument(watch)
    try:
        with scope:
            await dial(address, soon())
    finally:
        trio.lowlevel.remove_instrument(watch)
    assert scope.cancelled_caught


async def test_a_connection_comes_back_as_a_plain_socket_that_never_blocks() -> None:
    with listening() as address, await dial(address, soon()) as sock:
        assert sock.getpeername() == address
        assert sock.gettimeout() == 0
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


async def test_a_name_is_resolved() -> None:
    with listening() as address:
        trio.socket.set_custom_hostname_resolver(Resolver(address))
        with await dial(("node.test", 7443), soon()) as sock:
            assert sock.getpeername() == address


async def test_a_refused_connection_says_so_and_leaves_nothing() -> None:
    with listening() as address:
        pass
    async with no_descriptor_is_left():
        with pytest.raises(ConnectionRefusedError):
            await dial(address, soon())


async def test_an_attempt_without_an_answer_ends_at_its_deadline_and_leaves_nothing() -> None:
    with unreachable() as address:
        async with no_descriptor_is_left():
            with pytest.raises(TimeoutError, match="connect_timeout_s"):
                await dial(address, trio.current_time() + 0.05)


async def test_cancelled_while_connecting_it_leaves_nothing() -> None:
    with unreachable() as address:
        async with no_descriptor_is_left():
            await cancelled_at(CONNECTING, address)


async def test_cancelled_while_resolving_it_leaves_nothing() -> None:
    trio.socket.set_custom_hostname_resolver(Resolver())
    async with no_descriptor_is_left():
        await cancelled_at(RESOLVING, ("node.test", 7443))


async def test_cancelled_where_the_kernel_connects_at_once_it_is_cancelled_all_the_same() -> None:
    """A connection over the loopback may be there before `connect` returns: it must be a checkpoint even then."""
    connected: list[tuple[str, int]] = []

    class Quick(socket.socket):
        def connect(self, address: object) -> None:
            assert isinstance(address, tuple)
            connected.append(address)

    with Quick() as sock, trio.CancelScope() as scope:
        scope.cancel()
        await _connect(sock, ("127.0.0.1", 1))
    assert scope.cancelled_caught
    assert connected == [("127.0.0.1", 1)]


@pytest.mark.parametrize("host", ["127.0.0.1", "node.test"])
async def test_cancelled_before_it_began_it_leaves_nothing(host: str) -> None:
    with listening() as address:
        trio.socket.set_custom_hostname_resolver(Resolver(address))
        async with no_descriptor_is_left():
            with trio.CancelScope() as scope:
                scope.cancel()
                await dial((host, address[1]), soon())
            assert scope.cancelled_caught
