from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from wire.http2.flow import Windows, step_of


@given(st.integers(1, 1 << 20), st.lists(st.integers(0, 70_000)))
def test_credit_is_conserved_and_never_lags_by_half_a_window(window: int, consumed: list[int]) -> None:
    windows = Windows(0, window)
    step = step_of(window)
    announced = 0
    for flow_bytes in consumed:
        windows.receive_window -= flow_bytes
        increment = windows.give_back(flow_bytes, step)
        announced += increment
        assert windows.uncredited < step
        assert windows.receive_window + windows.uncredited == window
    assert announced + windows.uncredited == sum(consumed)


def test_a_window_holds_up_to_its_maximum() -> None:
    windows = Windows(2**31 - 2, 0)
    assert windows.widen(1)
    assert not windows.widen(1)


def test_a_negative_window_is_widened_like_any_other() -> None:
    windows = Windows(10, 0)
    assert windows.widen(-30)
    assert windows.send_window == -20
