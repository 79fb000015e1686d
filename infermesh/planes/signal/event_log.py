"""What the signal plane asks of a log: events with fields. `infermesh.observe.logs.Logger` is one.

A port and not an import, so that a test can hand in a list and read it.
"""

from __future__ import annotations

from typing import Protocol


class EventLog(Protocol):
    def info(self, event: str, /, **fields: object) -> None: ...
    def warning(self, event: str, /, **fields: object) -> None: ...
