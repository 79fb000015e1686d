"""Run the echo server of `infermesh.testing` on a port, for suites that are programs of their own.

Usage: python -m tests.interop.websocket_echo --port N [--keep-windows]

Prints one line once it listens. --keep-windows: permessage-deflate keeps its window between messages.
"""

from __future__ import annotations

import argparse
import sys

import trio

from infermesh.net.websocket import WebSocketConfig
from infermesh.testing.websocket_echo import EchoServer, serve_echo
from wire.websocket import DeflateConfig


async def main(port: int, *, keep_windows: bool) -> int:
    deflate = DeflateConfig(keep_our_window=keep_windows, keep_their_window=keep_windows, message_bytes_min=0)
    config = WebSocketConfig(deflate=deflate)
    async with trio.open_nursery() as nursery:

        async def start(*, task_status: trio.TaskStatus[EchoServer]) -> None:
            await serve_echo(config, port=port, task_status=task_status)

        server: EchoServer = await nursery.start(start)
        print(f"echo at ws://{server.address[0]}:{server.address[1]}/", flush=True)
    return 1  # pragma: no cover - it serves until it is killed.


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--keep-windows", action="store_true")
    arguments = parser.parse_args()
    try:
        sys.exit(trio.run(lambda: main(arguments.port, keep_windows=arguments.keep_windows)))
    except KeyboardInterrupt:
        sys.exit(0)
