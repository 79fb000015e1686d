"""Free ports are free, preferred ones come first, and taken ones are named."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator

import pytest

from infermesh.cli.fleet.ports import HIGH, LOW, PortsTaken, find_ports, find_row, is_free

HOST = "127.0.0.1"


@pytest.fixture
def taken() -> Iterator[int]:
    """A port on which somebody listens."""
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        listener.listen()
        yield listener.getsockname()[1]


def test_a_port_with_a_listener_is_not_free(taken: int) -> None:
    assert not is_free(HOST, taken)


def test_ports_are_distinct_and_below_those_of_outgoing_connections() -> None:
    ports = find_ports(30, host=HOST, rng=random.Random(1))
    assert len(set(ports)) == 30
    assert all(LOW <= port < HIGH and is_free(HOST, port) for port in ports)


def test_a_preferred_port_is_taken_where_it_is_free_and_replaced_where_not(taken: int) -> None:
    (free,) = find_ports(1, host=HOST, rng=random.Random(2))
    ports = find_ports(3, host=HOST, rng=random.Random(3), preferred=(taken, free))
    assert ports[1] == free
    assert taken not in ports
    assert len(set(ports)) == 3


def test_a_row_is_as_asked_or_the_taken_ports_are_named(taken: int) -> None:
    with pytest.raises(PortsTaken, match=f"in use on {HOST}: port .*{taken}"):
        find_row(2, host=HOST, base=taken - 1)
    with pytest.raises(PortsTaken, match="go beyond 65535"):
        find_row(3, host=HOST, base=65_534)
