from __future__ import annotations

from typing import Any

import pytest

from wire.http2 import Http2Config, Role


def test_the_defaults_hold_together() -> None:
    for role in Role:
        Http2Config(role).validate()


@pytest.mark.parametrize(
    "changes",
    [
        {"window_bytes": 0},
        {"window_bytes": 2 << 20, "connection_window_bytes": 1 << 20},
        {"window_bytes": 1, "connection_window_bytes": 65_534},
        {"connection_window_bytes": 2**31},
        {"low_bytes": 65_536},
        {"low_bytes": -1},
        {"frame_bytes_max": 16_383},
        {"frame_bytes_max": 2**24},
        {"streams_max": 0},
        {"preface_s": 0.0},
        {"stalled_s": -1.0},
    ],
)
def test_values_that_contradict_each_other_are_named(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(changes))):
        Http2Config(Role.SERVER, **changes).validate()
