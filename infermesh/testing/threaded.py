"""A trio server in a thread of its own, for tests of code that runs its own loop: commands, other people's clients."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Generic, TypeVar

import trio

T = TypeVar("T")

Serve = Callable[..., Awaitable[object]]


class ThreadedServer(Generic[T]):
    """`with ThreadedServer(serve) as started:`: `serve(task_status=...)` runs until the end of the block.

    `started` is what it reported. A server that fails while starting raises here; one that ends early is noticed at
    the end of the block.
    """

    def __init__(self, serve: Serve) -> None:
        self._serve = serve
        self._started = threading.Event()
        self._value: list[T] = []
        self._failure: BaseException | None = None
        self._token: trio.lowlevel.TrioToken | None = None
        self._scope = trio.CancelScope()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> T:
        self._thread.start()
        self._started.wait()
        if self._failure is not None:
            self._thread.join()
            raise self._failure
        return self._value[0]

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._token is not None
        with contextlib.suppress(trio.RunFinishedError):
            self._token.run_sync_soon(self._scope.cancel)
        self._thread.join()
        if self._failure is not None and error is None:
            raise self._failure

    def _run(self) -> None:
        try:
            trio.run(self._main)
        except BaseException as failure:  # noqa: BLE001 (handed to the thread that waits)
            self._failure = failure
        finally:
            self._started.set()

    async def _main(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        with self._scope:
            async with trio.open_nursery() as nursery:
                self._value.append(await nursery.start(self._serve))
                self._started.set()
