"""Limits of the kernel and of the cores inside it, in one frozen value."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from infermesh.core.fusion import FusionConfig
from infermesh.core.routing.outlier import OutlierConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelConfig:
    fusion: FusionConfig = field(default_factory=FusionConfig)
    outliers: OutlierConfig = field(default_factory=OutlierConfig)
    gpus_every_s: float = 1.0  # GPU readings alone renew the view this often: no request waits for them.
    events_max: int = 10_000

    def validate(self) -> None:
        """Raise ValueError that names the setting, its value, and what is allowed."""
        self.fusion.validate()
        self.outliers.validate()
        if not 0.0 <= self.gpus_every_s < math.inf:
            raise ValueError(f"kernel.gpus_every_s is {self.gpus_every_s}: it must be a finite number, 0 or more")
        if self.events_max < 1:
            raise ValueError(f"kernel.events_max is {self.events_max}: it must be 1 or more")
