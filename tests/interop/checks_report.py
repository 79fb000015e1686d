"""The checks of one interop script as a report: a line each for a person as they come, and the whole in JSON.

Checks of our own are functions that raise; those of a client that lives in another environment are a program that
prints a JSON line each (`run_client`).
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
CLIENT_TIMEOUT_S = 120.0
_SHOWN_CHARS = 200


class Failed(Exception):
    """A check did not find what it expects."""


def expect(is_so: object, what: str) -> None:
    if not is_so:
        raise Failed(what)


class ChecksReport:
    def __init__(self) -> None:
        self.checks: dict[str, dict[str, Any]] = {}

    @property
    def ok(self) -> bool:
        return bool(self.checks) and all(found["ok"] for found in self.checks.values())

    @property
    def summary(self) -> str:
        return f"{sum(found['ok'] for found in self.checks.values())} of {len(self.checks)} checks passed"

    def add(self, name: str, found: dict[str, Any]) -> None:
        self.checks[name] = found
        rest = {key: value for key, value in found.items() if key != "ok"}
        print(f"{'ok  ' if found['ok'] else 'FAIL'} {name} {json.dumps(rest)[:_SHOWN_CHARS]}", file=sys.stderr)

    def check(self, check: Callable[[], dict[str, Any]]) -> None:
        """A check that fails is a line of the report; the later ones still tell something."""
        try:
            found = {"ok": True, **check()}
        except (Failed, TimeoutError, RuntimeError, OSError) as error:
            found = {"ok": False, "error": f"{type(error).__name__}: {error}"}
        self.add(check.__name__, found)

    def run_client(self, python: Path, module: str, *arguments: str) -> None:
        """The checks of `python -m MODULE ARGUMENTS`. It must come to its end, and report at least one."""
        output, fault = "", ""
        try:
            done = subprocess.run(
                [str(python), "-m", module, *arguments],
                capture_output=True,
                text=True,
                timeout=CLIENT_TIMEOUT_S,
                check=False,
                cwd=ROOT,
            )
            output = done.stdout
            print(done.stderr, end="", file=sys.stderr)
            if done.returncode not in (0, 1):
                fault = f"ended with {done.returncode}: {done.stderr[-2000:]}"
        except subprocess.TimeoutExpired as late:
            output = (late.stdout or b"").decode() if isinstance(late.stdout, bytes) else late.stdout or ""
            fault = f"not done after {CLIENT_TIMEOUT_S:g} s"
        lines = [json.loads(line) for line in output.splitlines()]
        for line in lines:
            self.add(line.pop("check"), line)
        if fault or not lines:
            name = f"{module.rpartition('.')[2]}_ran_to_their_end"
            self.add(name, {"ok": False, "error": fault or "no check reported"})
