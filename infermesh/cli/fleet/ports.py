"""Free ports of this machine, for processes that will bind them in a moment.

A port that is free now may be taken before its process binds it: the caller starts over when that happens. Ports
are taken from below the range that Linux gives to outgoing connections, which is what makes it rare.
"""

from __future__ import annotations

import random
import socket
from collections.abc import Sequence

LOW, HIGH = 20_000, 32_000
_TRIES_MAX = 2_000


class PortsTaken(Exception):
    """The ports asked for, or enough of any, are not free. The message names them."""


def find_ports(count: int, *, host: str, rng: random.Random, preferred: Sequence[int] = ()) -> list[int]:
    """`count` free ports: the preferred ones first where they are free, others in their place."""
    found = [port if is_free(host, port) else 0 for port in preferred[:count]]
    found += [0] * (count - len(found))
    for _ in range(_TRIES_MAX):
        if 0 not in found:
            return found
        port = rng.randrange(LOW, HIGH)
        if port not in found and is_free(host, port):
            found[found.index(0)] = port
    raise PortsTaken(f"no {count} free ports on {host} between {LOW} and {HIGH}")


def find_row(count: int, *, host: str, base: int) -> list[int]:
    """The `count` ports from `base` on, all of them free."""
    if base + count > 65_536:
        raise PortsTaken(f"{count} ports from {base} on go beyond 65535")
    row = list(range(base, base + count))
    taken = [str(port) for port in row if not is_free(host, port)]
    if taken:
        raise PortsTaken(f"in use on {host}: port {', '.join(taken)}")
    return row


def is_free(host: str, port: int) -> bool:
    with socket.socket() as probe:
        # As servers do: a port whose last connections are still in TIME_WAIT is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen(1)
        except OSError:
            return False
    return True
