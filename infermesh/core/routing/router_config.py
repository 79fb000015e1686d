"""Settings of the router's choice: one frozen value, checked once when the node starts.

Not the settings of admission, hedging budgets or retries: those stand beside their own cores.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from infermesh.core.model.profiles import PROFILES, EngineProfile

POLICY_NAMES = (
    "predicted_ms",
    "weighted_prefix",
    "power_of_two",
    "least_load",
    "hot_cold",
    "round_robin",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutingConfig:
    """How targets are compared. Every default was set by simulation: docs/decisions/0002-default-policy.md.

    `scan_max` and `sample_size` belong together: a model with at most `scan_max` targets has all of them
    scored, a larger one has `sample_size` drawn at random, plus at most `holders_max` that hold the prompt's
    prefix. `explore_inflight_max` bounds how many unanswered requests an unproven target may hold before it
    is made to look worse; `correction_half_life_s` says how fast a target nobody tried becomes unproven again.
    """

    policy: str = "predicted_ms"
    prior: EngineProfile = PROFILES["h100"]
    """What a target is taken to cost until it is known better; only its shape matters once learning began."""
    prior_output_tokens: float = 256.0
    """Output length assumed before any answer of the model was counted."""
    prior_bytes_per_token: float = 4.0
    """Prompt bytes per token assumed before any answer of the model was counted."""
    decode_weight: float = 0.05
    """How much one millisecond until the last token counts beside one until the first, 0..1."""
    others_weight: float = 1.0
    """How much one millisecond that this request costs the requests beside it counts, 0..1."""
    near_tie_ms: float = 2.0
    """Half-width of every score's interval: what the model cannot tell apart even with fresh signals."""
    near_tie_share: float = 0.02
    """Further half-width as a share of the score."""
    staleness_ms_per_s: float = 50.0
    """Further half-width for each second of a signal's age, as far as other routers' load is in it."""
    correction_half_life_s: float = 60.0
    """After this time without an answer, half of what was learnt of a target's speed is forgotten."""
    correction_ratio_max: float = 64.0
    """Bound of the learnt factor, both ways: a target is taken for at most this much slower or faster."""
    correction_weight_max: float = 6.0
    """Answers that the learnt factor remembers; a new answer moves it by at least 1 / this."""
    quantile: float = 0.95
    """Quantile of the time to first token after which a hedge may fire."""
    quantile_prior_ratio: float = 3.0
    """That quantile over the prediction, assumed until a target has answered often enough."""
    hedge_enabled: bool = True
    hedge_floor_ms: float = 50.0
    """No hedge fires earlier than this, however fast the target is."""
    scan_max: int = 8
    sample_size: int = 3
    holders_max: int = 3
    candidates_max: int = 4
    """Candidates that a plan names: the choice, its backup, and more for retries."""
    explore_inflight_max: int = 2
    failure_cost_ms: float = 2_000.0
    """What a failed attempt costs on top of its retry: a target that fails half the time pays half of it."""
    load_cost_ms: float = 30_000.0
    """What it costs to send a request to a model that is still being loaded."""
    prefix_blocks_max: int = 400_000
    """Remembered prefix blocks per model over all its targets: about 150 bytes each, so 60 MB."""
    prefix_capacity_share: float = 0.9
    """Share of an engine's KV memory that is taken to hold prompts; answers fill the rest."""

    def validate(self) -> None:
        """Raise `ValueError` that names the setting, the value seen and what is allowed."""
        if self.policy not in POLICY_NAMES:
            raise ValueError(f"routing.policy is {self.policy!r}; known are {', '.join(POLICY_NAMES)}")
        for name, low, high in _RANGES:
            value = float(getattr(self, name))
            if not low <= value <= high:
                raise ValueError(f"routing.{name} is {value:g}; allowed is {low:g} to {high:g}")
        if self.sample_size > self.scan_max:
            raise ValueError(
                f"routing.sample_size is {self.sample_size}, above routing.scan_max {self.scan_max}: "
                "a sample larger than what is scanned whole makes no sense; lower the one or raise the other"
            )


_RANGES = (
    ("prior_output_tokens", 1.0, 1e6),
    ("prior_bytes_per_token", 0.25, 64.0),
    ("decode_weight", 0.0, 1.0),
    ("others_weight", 0.0, 1.0),
    ("near_tie_ms", 0.0, 1e4),
    ("near_tie_share", 0.0, 1.0),
    ("staleness_ms_per_s", 0.0, 1e6),
    ("correction_half_life_s", 0.1, 1e6),
    ("correction_ratio_max", 1.0, 1e4),
    ("correction_weight_max", 1.0, 1e4),
    ("quantile", 0.5, 0.999),
    ("quantile_prior_ratio", 1.0, 100.0),
    ("hedge_floor_ms", 0.0, math.inf),
    ("scan_max", 2, 64),
    ("sample_size", 2, 64),
    ("holders_max", 0, 16),
    ("candidates_max", 1, 16),
    ("explore_inflight_max", 1, 1_000),
    ("failure_cost_ms", 0.0, 1e6),
    ("load_cost_ms", 0.0, 1e7),
    ("prefix_blocks_max", 0, 10_000_000),
    ("prefix_capacity_share", 0.0, 1.0),
)
