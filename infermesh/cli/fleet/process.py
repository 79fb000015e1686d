"""One meshd process: started on a leash, its log in a file, stopped in good order or killed.

Not a supervisor: who starts it watches it. Processes are started from the main thread without an awaiting thread of
their own, so that nothing here outlives the caller.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import trio

from infermesh.core.model.names import NodeId

_POLL_S = 0.02
_TAIL_BYTES = 8_192


class MeshProcess:
    def __init__(self, node: NodeId, config_file: Path, log_file: Path, environ: dict[str, str]) -> None:
        self.node = node
        self.config_file = config_file
        self.log_file = log_file
        self._environ = environ
        self._popen: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._popen is not None, f"{self.node} was not started"
        return self._popen.pid

    @property
    def exit_status(self) -> int | None:
        """None while it runs, or before it was started."""
        return self._popen.poll() if self._popen is not None else None

    @property
    def running(self) -> bool:
        return self._popen is not None and self._popen.poll() is None

    def start(self) -> None:
        """Raises OSError when no process can be made."""
        assert not self.running, f"{self.node} runs already"
        self.release()
        with self.log_file.open("ab") as log:
            self._popen = subprocess.Popen(  # noqa: S603 (our own interpreter and module)
                [sys.executable, "-m", "infermesh.cli.fleet.leashed", "--config", str(self.config_file)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=self._environ,
                # Its own group: Ctrl-C on the terminal is for the starter, which stops all in order.
                process_group=0,
            )

    def kill(self) -> None:
        """SIGKILL: no farewell, as a machine that loses power."""
        if self.running:
            os.kill(self.pid, signal.SIGKILL)

    def terminate(self) -> None:
        if self.running:
            os.kill(self.pid, signal.SIGTERM)

    async def wait(self) -> None:
        """Until it has ended. The caller sets the deadline."""
        # Not every system can be waited on for the end of a process without a thread.
        while self.running:  # noqa: ASYNC110
            await trio.sleep(_POLL_S)

    def release(self) -> None:
        """Let go of the leash: a process that still runs ends at once."""
        if self._popen is not None and self._popen.stdin is not None:
            with contextlib.suppress(OSError):
                self._popen.stdin.close()

    def log_tail(self, lines: int) -> list[str]:
        """The last lines of its log."""
        try:
            with self.log_file.open("rb") as log:
                log.seek(0, os.SEEK_END)
                log.seek(max(0, log.tell() - _TAIL_BYTES))
                text = log.read().decode("utf-8", "replace")
        except FileNotFoundError:
            return []
        return text.splitlines()[-lines:]


async def stop_all(processes: Sequence[MeshProcess], *, grace_s: float) -> list[NodeId]:
    """SIGTERM to all, SIGKILL to those that still run after `grace_s`, which are named in the answer."""
    for process in processes:
        process.terminate()
    with trio.move_on_after(grace_s):
        for process in processes:
            await process.wait()
    late = [process for process in processes if process.running]
    for process in late:
        process.kill()
    for process in processes:
        await process.wait()
        process.release()
    return [process.node for process in late]
