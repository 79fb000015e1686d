"""One conversation with our WebSocket server, by raw bytes: what is sent, what must come back, and how it ends.

The cases of this folder are those of Autobahn's fuzzing client, re-expressed: its sections give the files their names.
Each case states the strict outcome, so what the suite would call NON-STRICT fails here. The suite itself, of which no
line is here, runs by scripts/interop-autobahn.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import trio

from infermesh.net.websocket import WebSocketConfig
from infermesh.testing.waiting import wait_until
from infermesh.testing.websocket_client import RawWebSocket
from infermesh.testing.websocket_echo import EchoServer, serve_echo
from infermesh.testing.websocket_frames import Frame

_DEADLINE_S = 60


@dataclass(frozen=True)
class Case:
    """`close`: the code by which the server ends it; None: it does not, and closes with 1000 when we do."""

    name: str
    sends: Sequence[bytes]
    answers: Sequence[Frame] = ()
    close: int | None = None
    chop: int = 0  # Bytes of one write; 0: each of `sends` is one.

    def __str__(self) -> str:
        return self.name


def names(cases: Sequence[Case]) -> list[str]:
    """For `ids`."""
    return [case.name for case in cases]


async def converse(case: Case, config: WebSocketConfig | None = None, *lines: bytes) -> EchoServer:
    """Hold it, and check that the server has survived it."""
    async with trio.open_nursery() as nursery:
        server: EchoServer = await nursery.start(partial(serve_echo, config or WebSocketConfig()))
        with trio.fail_after(_DEADLINE_S):
            async with await RawWebSocket.dial(server.address, b"/", *lines) as client:
                await _say(client, case)
                await _check_end(client, case)
            await wait_until(lambda: bool(server.closings), "the server knows that it has ended")
        assert server.crashes == []
        nursery.cancel_scope.cancel()
    return server


async def _say(client: RawWebSocket, case: Case) -> None:
    async with trio.open_nursery() as nursery:  # A large echo must be read while more is being sent.

        async def read() -> None:
            for answer in case.answers:
                assert await client.read() == answer, case.name

        nursery.start_soon(read)
        for piece in _pieces(case):
            # The server may have closed already: then the rest is sent into the void.
            try:
                await client.send(piece)
            except trio.BrokenResourceError:
                assert case.close is not None
                break


async def _check_end(client: RawWebSocket, case: Case) -> None:
    if case.close is None:
        closing = await client.close(1000)
        assert closing is not None
        assert closing.close_code == 1000
    else:
        (last,) = await client.read_all()
        assert last is not None
        assert last.close_code == case.close


def _pieces(case: Case) -> Iterator[bytes]:
    for data in case.sends:
        if not case.chop:
            yield data
        for at in range(0, len(data), case.chop or len(data) + 1):
            if case.chop:
                yield data[at : at + case.chop]
