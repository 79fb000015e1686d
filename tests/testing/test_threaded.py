"""A trio server in a thread: its start is waited for, its end is clean, its failure is the test's."""

from __future__ import annotations

import pytest
import trio

from infermesh.testing.threaded import ThreadedServer


async def _serve(*, task_status: trio.TaskStatus[str]) -> None:
    task_status.started("here")
    await trio.sleep_forever()


async def _fail(*, task_status: trio.TaskStatus[str]) -> None:
    raise OSError("no port")


def test_the_block_sees_what_was_reported_and_its_end_stops_the_server() -> None:
    server: ThreadedServer[str] = ThreadedServer(_serve)
    with server as started:
        assert started == "here"


def test_a_server_that_cannot_start_fails_the_test() -> None:
    with pytest.raises(BaseException) as caught, ThreadedServer(_fail):
        pass
    assert caught.group_contains(OSError, match="no port")
