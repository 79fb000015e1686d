"""The load process's event loop: one epoll, plain non-blocking sockets, nothing shared with the product.

Not a general loop: it exists because the load side of a data-plane benchmark must cost less than what it
measures. Client and fake backends live in this one loop on one core, so that a chunk costs the load side one
send and one receive and no context switch. A caller registers endpoints and calls `run`.
"""

from __future__ import annotations

import ctypes
import os
import select
import socket
import ssl
import time
from collections.abc import Callable

IN = select.EPOLLIN
OUT = select.EPOLLOUT
RECEIVE_BYTES_MAX = 65536
EVENTS_MAX = 256

Socket = socket.socket | ssl.SSLSocket


class Loop:
    def __init__(self) -> None:
        self.epoll = select.epoll()
        self.endpoints: dict[int, Callable[[int], None]] = {}
        self._closers: dict[int, Callable[[], None]] = {}

    def add(self, fd: int, on_event: Callable[[int], None], close: Callable[[], None]) -> None:
        """`close` must call `remove`; it is called by `Loop.close` for what is still there then."""
        self.endpoints[fd] = on_event
        self._closers[fd] = close
        self.epoll.register(fd, IN)

    def remove(self, fd: int) -> None:
        if self.endpoints.pop(fd, None) is not None:
            del self._closers[fd]
            self.epoll.unregister(fd)

    def close(self) -> None:
        for close in list(self._closers.values()):
            close()
        self.epoll.close()

    def run(self, seconds: float) -> None:
        """Serve events for this long."""
        self.run_until(_never, seconds)

    def run_until(self, is_done: Callable[[], bool], seconds_max: float) -> bool:
        """Serve events until `is_done()`, asked after each batch; False when the time ran out first."""
        poll, endpoints = self.epoll.poll, self.endpoints
        deadline = time.monotonic() + seconds_max
        while not is_done():
            wait_s = deadline - time.monotonic()
            if wait_s <= 0:
                return False
            for fd, mask in poll(wait_s, EVENTS_MAX):
                on_event = endpoints.get(fd)
                if on_event is not None:  # None: an earlier event of this batch closed it.
                    on_event(mask)
        return True


def _never() -> bool:
    return False


class Endpoint:
    """A non-blocking stream socket with a backlog for what the kernel did not take at once."""

    __slots__ = ("_loop", "closed", "fd", "pending", "receive", "send", "sock")

    def __init__(self, loop: Loop, sock: Socket) -> None:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._loop = loop
        self.sock = sock
        self.fd = sock.fileno()
        self.receive = sock.recv
        self.send = sock.send
        self.pending = b""
        self.closed = False
        loop.add(self.fd, self.on_event, self.close)

    def on_event(self, mask: int) -> None:
        raise NotImplementedError

    def write(self, data: bytes) -> None:
        if self.pending:
            self.pending += data
            return
        try:
            sent = self.send(data)
        except (BlockingIOError, ssl.SSLWantWriteError):
            sent = 0
        except OSError:
            self.close()
            return
        if sent != len(data):
            self.pending = data[sent:]
            self._loop.epoll.modify(self.fd, IN | OUT)

    def flush(self) -> None:
        """Send what `write` had to keep; call it when the mask has OUT."""
        data, self.pending = self.pending, b""
        self._loop.epoll.modify(self.fd, IN)
        if data and not self.closed:
            self.write(data)

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self._loop.remove(self.fd)
            self.sock.close()


class Ticker:
    """Call `on_tick` once for every period that has passed, from a kernel timer.

    `epoll` waits in whole milliseconds and rounds up; a timerfd keeps a 1 ms cadence without spinning. The
    standard library has it from Python 3.13 on; libc has it always.
    """

    def __init__(self, loop: Loop, period_s: float, on_tick: Callable[[], None]) -> None:
        self._loop = loop
        self._on_tick = on_tick
        libc = ctypes.CDLL(None, use_errno=True)
        self._fd: int = libc.timerfd_create(time.CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create failed")
        period_ns = int(period_s * 1e9)
        seconds, nanoseconds = divmod(period_ns, 10**9)
        # struct itimerspec: interval seconds, nanoseconds, then first expiry seconds, nanoseconds.
        specification = (ctypes.c_long * 4)(seconds, nanoseconds, seconds, nanoseconds)
        if libc.timerfd_settime(self._fd, 0, specification, None) != 0:
            raise OSError(ctypes.get_errno(), "timerfd_settime failed")
        loop.add(self._fd, self._on_event, self.close)

    def _on_event(self, mask: int) -> None:
        for _ in range(int.from_bytes(os.read(self._fd, 8), "little")):
            self._on_tick()

    def close(self) -> None:
        self._loop.remove(self._fd)
        os.close(self._fd)
