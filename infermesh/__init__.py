"""infermesh: a GPU-aware inference mesh. One daemon per node, `meshd`; one command, `mesh`."""

from __future__ import annotations

from typing import Final

__all__ = ["__version__"]

__version__: Final = "0.1.0"
