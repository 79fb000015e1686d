"""One attacking process: connections that each play one flood to its end and begin again, until the time is over.

`python -m tests.bench.attacks.attacker PORT NUMBER SECONDS CONNECTIONS`, where NUMBER is the flood's place in the
list, or -1 for honest clients that ask as fast as they are answered. Prints one JSON object.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass

import trio

from tests.conformance.attacks.floods import FLOODS
from tests.conformance.http2.port import Port
from tests.conformance.http2.raw_peer import RawPeer

HONEST = -1
PATH = b"/v1/models"
_ROUND = 50


@dataclass
class Done:
    connections: int = 0
    frames: int = 0


async def attack(port: Port, number: int, done: Done) -> None:
    while True:
        async with port.peer() as peer:
            await peer.greet()
            if number == HONEST:
                await _ask_honestly(peer, done)
            else:
                done.frames += await peer.flood(FLOODS[number].frames(peer))
                await peer.connection_error(FLOODS[number].code)
            done.connections += 1


async def _ask_honestly(peer: RawPeer, done: Done) -> None:
    for first in range(1, 200 * _ROUND, 2 * _ROUND):
        streams = range(first, first + 2 * _ROUND, 2)
        await peer.send(*map(peer.get, streams))
        for stream_id in streams:
            await peer.response(stream_id, feed=True)
        peer.forget()
        done.frames += _ROUND


async def main(number_of_port: int, flood: int, seconds: float, connections: int) -> Done:
    port = Port(name="client-h2c", number=number_of_port, path=PATH)
    done = Done()
    with trio.move_on_after(seconds):
        async with trio.open_nursery() as nursery:
            for _ in range(connections):
                nursery.start_soon(attack, port, flood, done)
    return done


if __name__ == "__main__":
    port_text, flood_text, seconds_text, connections_text = sys.argv[1:]
    found = trio.run(main, int(port_text), int(flood_text), float(seconds_text), int(connections_text))
    sys.stdout.write(json.dumps(asdict(found)) + "\n")
