"""A log that keeps its events in a list, for tests that assert what was said and how often."""

from __future__ import annotations


class RecordedLog:
    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, object]]] = []

    def info(self, event: str, /, **fields: object) -> None:
        self.events.append((event, fields))

    warning = error = debug = info

    def names(self) -> list[str]:
        return [event for event, _ in self.events]

    def fields_of(self, event: str) -> list[dict[str, object]]:
        """The fields of every line of that event, in order."""
        return [fields for name, fields in self.events if name == event]
