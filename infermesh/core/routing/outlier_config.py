"""When a target is taken out of choice for its failures, in one frozen value."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class OutlierConfig:
    """Two rules eject: failures in a row, and a share of failures that is high and above the other targets'.

    The first ejection lasts `eject_base_s`, each further one twice as long, up to `eject_longest_s`; every
    `forgive_successes` successes take one doubling back. `ejected_share_max` bounds both rules together.
    """

    failures_in_row: int = 5
    connects_in_row: int = 2  # Refused connections mean that nothing listens: two are proof enough.
    window_s: float = 20.0  # Of the share rule; at least half of it is looked at, at most all of it.
    volume_min: int = 20  # Outcomes inside the window below which a share says nothing.
    failure_share_max: float = 0.3
    peer_factor: float = 2.0  # And so many times the share of the model's other targets.
    eject_base_s: float = 5.0
    eject_longest_s: float = 60.0
    ejected_share_max: float = 0.5  # Of a model's targets at once, rounded down: of one target none.
    probation_successes: int = 3  # In a row, before a readmitted target is trusted as before.
    forgive_successes: int = 20

    def validate(self) -> None:
        """Raise ValueError that names the setting, its value, and what is allowed."""
        counts = {
            "failures_in_row": self.failures_in_row,
            "connects_in_row": self.connects_in_row,
            "volume_min": self.volume_min,
            "probation_successes": self.probation_successes,
            "forgive_successes": self.forgive_successes,
        }
        for name, count in counts.items():
            if count < 1:
                raise ValueError(f"outliers.{name} is {count}: it must be 1 or more")
        if not 0.0 < self.window_s < float("inf"):
            raise ValueError(f"outliers.window_s is {self.window_s}: it must be a finite number above 0")
        for name, share in {
            "failure_share_max": self.failure_share_max,
            "ejected_share_max": self.ejected_share_max,
        }.items():
            if not 0.0 <= share <= 1.0:
                raise ValueError(f"outliers.{name} is {share}: it must lie between 0 and 1")
        if not self.peer_factor >= 1.0:
            raise ValueError(f"outliers.peer_factor is {self.peer_factor}: it must be 1 or more")
        if not 0.0 < self.eject_base_s <= self.eject_longest_s < float("inf"):
            raise ValueError(
                f"outliers.eject_base_s is {self.eject_base_s}: it must lie above 0 and not above "
                f"outliers.eject_longest_s ({self.eject_longest_s})"
            )
