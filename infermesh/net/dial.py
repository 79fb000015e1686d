"""Open a TCP connection as a plain non-blocking socket, for the reactor to take over."""

from __future__ import annotations

import ipaddress
import os
import socket

import trio


async def dial(address: tuple[str, int], deadline: float) -> socket.socket:
    """Connect by `deadline` (monotonic seconds). Raises OSError, TimeoutError among them."""
    with trio.move_on_at(deadline):
        last: OSError | None = None
        for family, target in await _resolve(address):
            sock = socket.socket(family, socket.SOCK_STREAM)
            try:
                sock.setblocking(False)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                await _connect(sock, target)
                return sock
            except OSError as error:
                sock.close()
                last = error
            except BaseException:
                sock.close()
                raise
        raise last if last is not None else OSError("the name resolves to no address")
    raise TimeoutError("no answer to the connection attempt in time (connect_timeout_s)")


async def _resolve(address: tuple[str, int]) -> list[tuple[socket.AddressFamily, tuple[str, int]]]:
    host, port = address
    try:
        version = ipaddress.ip_address(host).version
    except ValueError:
        found = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        return [(family, (str(sockaddr[0]), int(sockaddr[1]))) for family, _, _, _, sockaddr in found]
    return [(socket.AF_INET if version == 4 else socket.AF_INET6, (host, port))]


async def _connect(sock: socket.socket, target: tuple[str, int]) -> None:
    try:
        sock.connect(target)
        await trio.lowlevel.checkpoint()
        return
    except BlockingIOError:
        pass
    await trio.lowlevel.wait_writable(sock)
    code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if code:
        raise OSError(code, os.strerror(code))
