"""Where log lines go: a descriptor that may be a terminal, a file, a pipe or a socket, and must never hold us up.

No writer thread: a write to standard error costs 1 to 3 us, while waking a thread for each line costs ten times
that and fights the relay for the interpreter. Instead nothing here ever waits: what the other end does not take
stays in a backlog of bounded size, and when that is full the newest line is dropped and counted.

Duties of the caller: `drain` now and then (else a backlog waits for the next line), `flush` before the end.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import stat
import sys
import threading
import time
from collections import deque
from typing import Protocol, TextIO

from infermesh.observe.families import Value

BACKLOG_BYTES_MAX = 1 << 20
_REOPEN_FLAGS = os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
_PIPE_ATOMIC_BYTES = 4096  # pipe(7): writes up to PIPE_BUF go whole or not at all.


class Sink(Protocol):
    """One line in, never waits. Safe from any thread."""

    def write(self, line: bytes) -> None: ...
    def drain(self) -> None: ...
    def flush(self, within_s: float) -> bool: ...
    def close(self) -> None: ...


class TextSink:
    """For a stream without a descriptor: tests, notebooks. None: whatever `sys.stderr` is at the moment."""

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream

    def write(self, line: bytes) -> None:
        stream = self._stream if self._stream is not None else sys.stderr
        if stream is not None:  # None: the process was started without one.
            with contextlib.suppress(ValueError, OSError):  # Closed, or its reader is gone.
                stream.write(line.decode("utf-8", "replace"))

    def drain(self) -> None:
        pass

    def flush(self, within_s: float) -> bool:
        stream = self._stream if self._stream is not None else sys.stderr
        if stream is not None:
            with contextlib.suppress(ValueError, OSError):
                stream.flush()
        return True

    def close(self) -> None:
        self.flush(0.0)


class DescriptorSink:
    """For a real descriptor. It is not closed at the end: it belongs to the caller."""

    def __init__(self, fd: int, dropped: Value, backlog_bytes_max: int = BACKLOG_BYTES_MAX) -> None:
        self.dropped = dropped
        self._lock = threading.Lock()  # Worker threads log too; held only while nothing can block.
        self._backlog: deque[bytes] = deque()
        self._backlog_bytes = 0
        self._backlog_bytes_max = backlog_bytes_max
        self._fd = fd
        self._opened: int | None = None
        self._socket: socket.socket | None = None
        self._never_blocks = False
        self._open()

    def _open(self) -> None:
        """Find a way to write that cannot block, without changing flags that other processes share."""
        mode = os.fstat(self._fd).st_mode
        if stat.S_ISSOCK(mode):  # systemd connects standard error to the journal by a socket.
            self._socket = socket.socket(fileno=os.dup(self._fd))
        elif stat.S_ISFIFO(mode) or stat.S_ISCHR(mode):
            # O_NONBLOCK lives on the open file, which the parent may share: open the pipe or terminal once more.
            try:
                self._opened = os.open(f"/proc/self/fd/{self._fd}", _REOPEN_FLAGS)
                self._fd = self._opened
                self._never_blocks = True
            except OSError:
                pass  # No /proc, or a terminal of somebody else: poll before each write, the next best thing.
        elif stat.S_ISREG(mode):
            self._never_blocks = True

    def write(self, line: bytes) -> None:
        with self._lock:
            if self._backlog and not self._drain():
                self._keep(line)
                return
            sent = self._send(line)
            if sent < len(line):
                # The rest of a begun line goes first, whatever the backlog holds: half a line is no JSON.
                self._keep(line[sent:], begun=sent > 0)

    def drain(self) -> None:
        with self._lock:
            self._drain()

    def flush(self, within_s: float) -> bool:
        """Write out the backlog, waiting for the other end at most `within_s`. True when nothing is left."""
        deadline = time.monotonic() + within_s
        while True:
            with self._lock:
                if self._drain():
                    return True
            remaining_s = deadline - time.monotonic()
            if remaining_s <= 0:
                return False
            self._writable(min(remaining_s, 0.05))

    def close(self) -> None:
        if self._opened is not None:
            os.close(self._opened)
            self._opened = None
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _keep(self, line: bytes, *, begun: bool = False) -> None:
        if not begun and self._backlog_bytes + len(line) > self._backlog_bytes_max:
            self.dropped.value += 1
            return
        self._backlog.append(line)
        self._backlog_bytes += len(line)

    def _drain(self) -> bool:
        """True when the backlog is empty."""
        while self._backlog:
            line = self._backlog[0]
            sent = self._send(line)
            if sent == 0:
                return False
            self._backlog_bytes -= sent
            if sent == len(line):
                self._backlog.popleft()
            else:
                self._backlog[0] = line[sent:]
        return True

    def _send(self, line: bytes) -> int:
        """Bytes taken by the other end now; all of them when it is gone, for then nobody will ever read."""
        try:
            if self._socket is not None:
                return self._socket.send(line, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
            if self._never_blocks:
                return os.write(self._fd, line)
            if not self._writable(0.0):
                return 0
            return os.write(self._fd, line[:_PIPE_ATOMIC_BYTES])
        except BlockingIOError:
            return 0
        except OSError:  # Reader gone, disk full, terminal hung up: logging must not end the daemon.
            self.dropped.value += 1
            return len(line)

    def _writable(self, within_s: float) -> bool:
        poll = select.poll()
        poll.register(self._socket.fileno() if self._socket is not None else self._fd, select.POLLOUT)
        return bool(poll.poll(within_s * 1000.0))
