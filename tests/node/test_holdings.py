from __future__ import annotations

from infermesh.node.holdings import Holdings


def holdings(**changes: object) -> Holdings:
    idle: dict[str, object] = {
        "requests": 0,
        "waiting": 0,
        "admitted": 0,
        "attempts": 0,
        "forwarded": 0,
        "subscribers": 2,
        "following": 0,
        "sockets": 4,
        "unsent_bytes": 0,
        "accepted": {"client": 0, "mesh": 3},
        "upstream": {"gpu-a": (0, 1)},
    }
    return Holdings(**{**idle, **changes})  # type: ignore[arg-type]


def test_a_node_that_does_nothing_holds_idle_connections_alone() -> None:
    assert holdings().in_use() == {}
    assert (holdings().upstream_used, holdings().upstream_idle) == (0, 1)


def test_whatever_is_in_use_is_named() -> None:
    held = holdings(requests=1, admitted=1, upstream={"gpu-a": (1, 0), "gpu-b": (1, 1)}, sockets=6)
    assert held.in_use() == {"requests": 1, "admitted": 1, "upstream connections in use": 2}


def test_a_socket_that_is_neither_accepted_nor_dialled_is_nobodys() -> None:
    assert holdings(sockets=5).in_use() == {"sockets of nobody": 1}
