"""A running emulator for the tests of this folder."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial

import pytest
import trio

from infermesh.emulator import EmulatorConfig, EmulatorServer, serve_emulator

Start = Callable[[EmulatorConfig], Awaitable[EmulatorServer]]


@pytest.fixture
async def start(nursery: trio.Nursery) -> AsyncIterator[Start]:
    """`await start(config)` gives a server that lives as long as the test."""

    async def begin(config: EmulatorConfig) -> EmulatorServer:
        server: EmulatorServer = await nursery.start(partial(serve_emulator, config))
        return server

    yield begin
