import pytest

from infermesh.core.routing.effects import Admit, Cancel, Dispatch, RefusalReason, Refuse, Settle


def test_effects_are_equal_by_value_and_kind() -> None:
    assert Dispatch(0, "gpu-a") == Dispatch(0, "gpu-a")
    assert Dispatch(0, "gpu-a") != Dispatch(0, "gpu-b")
    effects: list[object] = [Cancel(1)]
    assert Admit(1) not in effects
    assert Settle(winner=None) != Settle(winner=0)


def test_effects_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        Admit(1).ticket = 2  # type: ignore[misc]


def test_effects_match_by_position() -> None:
    match Refuse(3, RefusalReason.SHED, 1.5):
        case Refuse(ticket, reason, retry_after_s):
            assert (ticket, reason, retry_after_s) == (3, "shed", 1.5)
