"""Which branches of a decoder an input takes: pairs of lines that followed each other, by `sys.settrace`.

Slow (some ten times) and everywhere available. Only the modules that a target names are traced.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

Edge = tuple[int, int, int]  # Number of the code object, line before, line.


class EdgeTrace:
    def __init__(self, modules: Sequence[str]) -> None:
        self.edges: set[Edge] = set()
        self._folders = tuple(_place_of(module) for module in modules)
        self._numbers: dict[CodeType, int] = {}  # 0: of no interest.

    @contextmanager
    def recording(self) -> Iterator[None]:
        before = sys.gettrace()
        sys.settrace(self._on_call)
        try:
            yield
        finally:
            sys.settrace(before)

    def take(self) -> set[Edge]:
        taken, self.edges = self.edges, set()
        return taken

    def _on_call(self, frame: FrameType, event: str, argument: object) -> Callable[..., Any] | None:
        code = frame.f_code
        number = self._numbers.get(code)
        if number is None:
            wanted = code.co_filename.startswith(self._folders)
            number = self._numbers[code] = len(self._numbers) + 1 if wanted else 0
        if not number:
            return None
        frame.f_trace_opcodes = False
        edges, before = self.edges, 0

        def on_line(frame: FrameType, event: str, argument: object) -> Callable[..., Any]:
            nonlocal before
            if event == "line":
                edges.add((number, before, frame.f_lineno))
                before = frame.f_lineno
            return on_line

        return on_line


def _place_of(module: str) -> str:
    """The file of a module, or the folder of a package."""
    found = importlib.util.find_spec(module)
    if found is None or found.origin is None:
        raise ValueError(f"no module {module}")
    origin = Path(found.origin)
    return str(origin.parent) if origin.name == "__init__.py" else str(origin)
