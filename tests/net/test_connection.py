from __future__ import annotations

import socket

import outcome
import pytest
import trio
import trio.testing

from infermesh.net.connection import BACKLOG_HIGH_BYTES, Connection, ConnectionLost
from infermesh.net.reactor import Reactor
from infermesh.net.timers import Timers
from infermesh.testing.reactors import RunningReactor, running_reactor


class Recorder(Connection):
    """Keeps what comes, and wakes its task at each piece."""

    __slots__ = ("got", "lost", "to")

    def __init__(self, sock: socket.socket, reactor: Reactor, timers: Timers) -> None:
        self.got = b""
        self.lost: list[str] = []
        self.to: Connection | None = None
        super().__init__(sock, reactor, timers)

    def on_bytes(self, data: bytes) -> None:
        self.got += data
        if self.to is not None:
            self.to.write(data, self)
        self.wake(outcome.Value(data))

    def on_lost(self, error: ConnectionLost) -> None:
        self.lost.append(str(error))


def connected(running: RunningReactor) -> tuple[Recorder, socket.socket]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    return Recorder(ours, running.reactor, running.timers), theirs


async def test_bytes_wake_the_parked_task_and_go_back_out() -> None:
    async with running_reactor() as running:
        connection, peer = connected(running)
        peer.send(b"hello")
        assert await connection.park() == b"hello"
        connection.write(b"world")
        assert peer.recv(100) == b"world"
        connection.close()
        peer.close()


async def test_cancelling_the_parked_task_closes_the_socket_at_that_moment() -> None:
    async with running_reactor() as running:
        connection, peer = connected(running)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(connection.park)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
            assert connection.closed
            assert peer.recv(10) == b""
        peer.close()


async def test_a_peer_that_closes_loses_the_connection_once() -> None:
    async with running_reactor() as running:
        connection, peer = connected(running)
        peer.close()
        with pytest.raises(ConnectionLost):
            await connection.park()
        assert len(connection.lost) == 1
        connection.abort()
        connection.lose("again")
        assert len(connection.lost) == 1


async def test_a_slow_reader_pauses_the_source_of_its_bytes_and_nothing_is_lost() -> None:
    async with running_reactor() as running:
        source, origin = connected(running)
        sink, reader = connected(running)
        source.to = sink
        total, sent, got = 8 << 20, 0, 0
        payload = bytes(range(256)) * 256
        held_max = 0
        async with trio.open_nursery() as nursery:

            async def produce() -> None:
                nonlocal sent
                while sent < total:
                    await trio.lowlevel.wait_writable(origin)
                    sent += origin.send(payload[sent % 256 : sent % 256 + 65280])

            async def consume() -> None:
                nonlocal got, held_max
                while got < max(total, sent):
                    await trio.lowlevel.wait_readable(reader)
                    data = reader.recv(10_000)
                    assert data == (payload + payload)[got % 256 : got % 256 + len(data)]
                    got += len(data)
                    held_max = max(held_max, sink.backlog_len)

            nursery.start_soon(produce)
            nursery.start_soon(consume)
        assert got == sent
        assert held_max <= BACKLOG_HIGH_BYTES + 65_536
        for end in (source, sink):
            end.close()
        origin.close()
        reader.close()


async def test_a_defect_in_one_connection_ends_that_one_alone() -> None:
    class Broken(Recorder):
        def on_bytes(self, data: bytes) -> None:
            raise ZeroDivisionError("a defect")

    async with running_reactor() as running:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        broken = Broken(ours, running.reactor, running.timers)
        healthy, peer = connected(running)
        theirs.send(b"x")
        peer.send(b"y")
        assert await healthy.park() == b"y"
        assert broken.closed
        assert [type(error) for error in running.crashes] == [ZeroDivisionError]
        running.crashes.clear()
        healthy.close()
        peer.close()
        theirs.close()
