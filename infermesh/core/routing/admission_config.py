"""Limits of admission, in one frozen value. `infermesh.node.config` holds its TOML face, section [admission]."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class AdmissionConfig:
    """How many may run, how many may wait and for how long, and what the refused are told.

    `queue_len_max` bounds the memory, `queue_wait_max_s` the patience: a request that would wait longer than
    that is refused at once, although its own deadline may allow it. `retry_after_max_s` should not be below
    `queue_wait_max_s`, else a full queue tells clients to come back before it has drained.
    """

    queue_len_max: int = 1024  # Requests waiting, per model; 0: none waits.
    queue_wait_max_s: float = 30.0  # Longest wait of one request, whatever its deadline.
    overcommit: float = 1.0  # Requests let in per slot of the fleet; above 1 the engines queue the rest.
    retry_after_min_s: float = 1.0
    retry_after_max_s: float = 60.0
    retry_after_jitter: float = 0.1  # Share added at random, so that the refused do not come back as one.
    no_capacity_wait_s: float = 2.0  # How long a model may be without any target before its requests get 503.
    no_capacity_retry_after_s: float = 5.0  # Told while no target is left: nothing drains, nothing is measured.
    aging_after_s: float = 5.0  # Past this wait a request counts as overdue, whatever its class.
    aging_every: int = 8  # Of this many admissions, one goes to the oldest overdue request.
    drain_window: int = 32  # Completions after which the measured rate has mostly forgotten the old ones.
    models_max: int = 4096  # Models with a queue of their own; requests for further ones are refused.

    def validate(self) -> None:
        """Raise ValueError that names the setting, its value, and what is allowed."""
        positive = {
            "queue_wait_max_s": self.queue_wait_max_s,
            "overcommit": self.overcommit,
            "retry_after_min_s": self.retry_after_min_s,
            "no_capacity_retry_after_s": self.no_capacity_retry_after_s,
            "aging_after_s": self.aging_after_s,
        }
        for name, value in positive.items():
            if not 0.0 < value < float("inf"):
                raise ValueError(f"admission.{name} is {value}: it must be a finite number above 0")
        counts = {"aging_every": (self.aging_every, 2), "drain_window": (self.drain_window, 1)}
        counts |= {"queue_len_max": (self.queue_len_max, 0), "models_max": (self.models_max, 1)}
        for name, (count, least) in counts.items():
            if count < least:
                raise ValueError(f"admission.{name} is {count}: it must be {least} or more")
        if not 0.0 <= self.retry_after_jitter <= 1.0:
            raise ValueError(f"admission.retry_after_jitter is {self.retry_after_jitter}: allowed is 0 to 1")
        if not 0.0 <= self.no_capacity_wait_s <= self.queue_wait_max_s:
            raise ValueError(
                f"admission.no_capacity_wait_s is {self.no_capacity_wait_s}: it must lie between 0 and "
                f"admission.queue_wait_max_s ({self.queue_wait_max_s})"
            )
        # Both bounds hold after jitter, so the room between them must take the jitter.
        if self.retry_after_max_s < self.retry_after_min_s * (1.0 + self.retry_after_jitter):
            raise ValueError(
                f"admission.retry_after_max_s is {self.retry_after_max_s}: it must be at least "
                f"admission.retry_after_min_s ({self.retry_after_min_s}) plus the jitter"
            )
