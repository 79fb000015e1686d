"""Attacks by WebSocket on the router's client port: each cut with its close code, cheap in memory, nobody disturbed.

Memory: what the process may grow by while the attack runs; the message limit (16 MiB, `client.body_bytes_max`) is what
a client may have there. Processor time: what no attack may go beyond, most of it for what it sent itself. The bystander
asks over HTTP/2 all the while.
"""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import repeat
from typing import Final

import pytest
import trio

from infermesh.testing.websocket_client import RawWebSocket
from infermesh.testing.websocket_frames import BINARY, CONTINUATION, PING, PONG, TEXT, client_frame
from tests.conformance.attacks.victim import Victim, bystanders
from tests.conformance.http2.port import HOST
from tests.conformance.nodes import Nodes

_MIB: Final = 1 << 20
_WRITE_FRAMES: Final = 512
_DEFLATE: Final = b"sec-websocket-extensions: permessage-deflate"
# Of an attack's own, beside what the bystander's answers take of the allocator.
_SLACK_BYTES: Final = 8 * _MIB
# The bystander's 99th percentile, on a machine that does other things as well: far below what anyone would notice.
_WAIT_P99_S_MAX: Final = 0.25
_CPU_S_MAX: Final = 1.0


@dataclass(frozen=True)
class Attack:
    """`frames`: what is sent, until the server has had enough. `grows_bytes`: what it may take besides the slack."""

    name: str
    frames: Callable[[], Iterator[bytes]]
    code: int
    reason: str
    grows_bytes: int = 0
    lines: tuple[bytes, ...] = ()

    def __str__(self) -> str:
        return self.name


def _bomb() -> Iterator[bytes]:
    """One mebibyte of zeros, deflated so that it may be repeated."""
    packer = zlib.compressobj(level=9, wbits=-15)
    block = packer.compress(bytes(_MIB)) + packer.flush(zlib.Z_FULL_FLUSH)
    yield client_frame(BINARY, block * 1024, rsv=4)


def _pieces(*, size: int, empty_first: bool = True) -> Iterator[bytes]:
    yield client_frame(BINARY, b"" if empty_first else bytes(size), fin=False)
    yield from repeat(client_frame(CONTINUATION, bytes(size), fin=False))


def _streams() -> Iterator[bytes]:
    yield client_frame(BINARY, b"\x03\x00" * 1_000_000, rsv=4)


ATTACKS: Final = (
    Attack("16 GiB declared", lambda: iter([client_frame(BINARY, declared=16 << 30)[:10]]), 1009, "body_oversized"),
    Attack("a bomb of 1 GiB", _bomb, 1009, "body_oversized", 3 * 16 * _MIB, (_DEFLATE,)),
    Attack("a message without an end", lambda: _pieces(size=65_535), 1009, "body_oversized", 3 * 16 * _MIB),
    Attack("empty pieces", lambda: _pieces(size=0), 1008, "flood"),
    Attack("pieces of a byte", lambda: _pieces(size=1), 1008, "flood"),
    Attack("a million deflate streams", _streams, 1007, "malformed", 4 * _MIB, (_DEFLATE,)),
    Attack("pings", lambda: repeat(client_frame(PING, bytes(125))), 1008, "flood"),
    Attack("pongs", lambda: repeat(client_frame(PONG)), 1008, "flood"),
    Attack(
        "a wrong byte in a long text", lambda: iter([client_frame(TEXT, b"\xff", declared=_MIB)]), 1007, "malformed"
    ),
)


async def _send_until_cut(client: RawWebSocket, frames: Iterator[bytes]) -> None:
    with contextlib.suppress(trio.BrokenResourceError):
        while not client.over:
            batch = b"".join(frame for frame, _ in zip(frames, range(_WRITE_FRAMES), strict=False))
            if not batch:
                return
            await client.stream.send_all(batch)


@pytest.mark.parametrize("attack", ATTACKS, ids=str)
async def test_an_attack_is_cut_with_its_code_and_disturbs_nobody(nodes: Nodes, attack: Attack) -> None:
    victim = Victim(nodes.fleet.router, nodes.port("client-h2c"))
    address = (HOST, victim.port.number)
    counted = victim.counted(attack.reason)
    async with bystanders(victim.port) as (bystander,):
        victim.reset_peak()
        before, cpu_s = victim.rss_bytes(), victim.cpu_s()
        with trio.fail_after(20):
            async with (
                await RawWebSocket.dial(address, b"/v1/completions", *attack.lines) as client,
                trio.open_nursery() as nursery,
            ):
                nursery.start_soon(_send_until_cut, client, attack.frames())
                frames = await client.read_all()
                nursery.cancel_scope.cancel()
        grown, cpu_s = victim.peak_bytes() - before, victim.cpu_s() - cpu_s
    last = frames[-1]
    assert last is not None
    assert last.close_code == attack.code
    assert victim.counted(attack.reason) == counted + 1
    assert grown <= attack.grows_bytes + _SLACK_BYTES, f"{grown / _MIB:.1f} MiB"
    waits_s = sorted(bystander.waits_s)
    p99_s = waits_s[int(len(waits_s) * 0.99)]
    assert p99_s <= _WAIT_P99_S_MAX
    assert cpu_s <= _CPU_S_MAX
