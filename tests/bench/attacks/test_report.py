"""The attack benchmark's table says what its rows hold."""

from __future__ import annotations

from tests.bench.attacks.report import Row, render


def _row(name: str, waits_s: list[float], *, frames: int = 0, connections: int = 0) -> Row:
    return Row(
        name=name,
        seconds=2.0,
        connections=connections,
        frames=frames,
        cpu_s=0.5,
        grown_bytes=3 << 20,
        waits_s=waits_s,
    )


def test_percentiles_are_the_largest_of_their_share() -> None:
    row = _row("x", [0.001 * number for number in range(100, 0, -1)])
    assert [round(row.p(share), 3) for share in (0.5, 0.99, 1.0)] == [0.05, 0.099, 0.1]


def test_a_row_is_compared_with_nobody() -> None:
    _, quiet, flood = render(
        [_row("nobody", [0.002]), _row("flood", [0.006], frames=1000, connections=10)]
    ).splitlines()
    assert quiet.split() == ["nobody", "0", "0", "-", "-", "25%", "3.0", "2.0", "2.0", "2.0", "1.0"]
    assert flood.split() == ["flood", "5", "500", "500.0", "50.0", "25%", "3.0", "6.0", "6.0", "6.0", "3.0"]
