import dataclasses

import pytest

from infermesh.core.model.profiles import PROFILES
from infermesh.core.routing.router_config import POLICY_NAMES, RoutingConfig


def test_the_defaults_are_valid_for_every_policy() -> None:
    for policy in POLICY_NAMES:
        RoutingConfig(policy=policy).validate()


def test_the_default_policy_is_the_one_that_won_the_simulations() -> None:
    assert RoutingConfig().policy == "predicted_ms"
    assert RoutingConfig().prior == PROFILES["h100"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"policy": "fastest"}, "routing.policy is 'fastest'; known are predicted_ms"),
        ({"decode_weight": 1.5}, "routing.decode_weight is 1.5; allowed is 0 to 1"),
        ({"correction_half_life_s": 0.0}, "routing.correction_half_life_s is 0; allowed is 0.1 to 1e+06"),
        ({"near_tie_ms": float("nan")}, "routing.near_tie_ms is nan"),
        ({"sample_size": 20}, "routing.sample_size is 20, above routing.scan_max 8"),
    ],
)
def test_a_bad_setting_is_named_with_its_value_and_what_is_allowed(change: dict[str, object], message: str) -> None:
    config = dataclasses.replace(RoutingConfig(), **change)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^routing\.") as caught:
        config.validate()
    assert message in str(caught.value)
