"""Fusion: one view out of what many GPU nodes report, with the age of every value."""

from __future__ import annotations

from infermesh.core.fusion.fusion import Drop, Forgotten, Fusion, FusionConfig, FusionEffect, Report, Stale

__all__ = ["Drop", "Forgotten", "Fusion", "FusionConfig", "FusionEffect", "Report", "Stale"]
