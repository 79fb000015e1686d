"""A runtime that does what no runtime should: its pages are an emulator's, each inference is a test's own function."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial

import trio

from infermesh.emulator import EmulatorConfig, EmulatorServer, serve_emulator
from infermesh.emulator.routes import plain_reply
from infermesh.testing.http_peer import HttpPeer, PeerRequest, PeerResponse, serve_http_peer
from infermesh.testing.mesh_plan import MODEL, RuntimeAt

Script = Callable[[PeerResponse], Awaitable[None]]


@asynccontextmanager
async def scripted_runtime(script: Script) -> AsyncGenerator[RuntimeAt, None]:
    """`script` answers each POST."""
    async with trio.open_nursery() as nursery:
        pages: EmulatorServer = await nursery.start(serve_emulator, EmulatorConfig(models=(MODEL,), profile="tiny"))
        peer: HttpPeer = await nursery.start(partial(serve_http_peer, partial(_answer, pages, script)))
        yield RuntimeAt(peer.base_url)
        nursery.cancel_scope.cancel()


async def _answer(pages: EmulatorServer, script: Script, request: PeerRequest, response: PeerResponse) -> None:
    if request.method == "POST":
        await script(response)
        return
    page = plain_reply(pages, request.method, request.target, b"")
    headers = [(b"content-type", page.content_type.encode())] if page.content_type else []
    await response.send(page.body, status=page.status, headers=headers)
