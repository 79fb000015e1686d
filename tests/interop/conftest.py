"""Fleets of real processes that several tests look at, and what they looked like before anybody asked them anything."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import pytest

from tests.interop.fleet import Fleet, gpu, router, running_fleet

# 15.2 ms a step at speed 1; here about 20 ms a token.
SPEED: Final = 0.75
STEP_S: Final = 0.0152 / SPEED

Program = Callable[[str], str]
Lints = Callable[[str], list[str]]


@dataclass(frozen=True)
class SharedFleet:
    """For tests that only send requests and look. Every request gets a log line."""

    fleet: Fleet
    idle_pages: dict[str, str]  # Each daemon's /metrics before the first request.


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedFleet]:
    logs = {"logs": {"level": "debug", "request_sample_ratio": 1.0}}
    specs = [router(logs), *(gpu(f"gpu-{name}", speed=SPEED, settings=logs) for name in "ab")]
    with running_fleet(tmp_path_factory.mktemp("shared"), specs) as fleet:
        pages = {node: daemon.page("/metrics").text for node, daemon in fleet.daemons.items()}
        yield SharedFleet(fleet, pages)


@pytest.fixture
def fleet(shared: SharedFleet) -> Fleet:
    return shared.fleet


@pytest.fixture
def program() -> Program:
    """The path of a program that somebody else wrote; the test is skipped where it is not installed."""

    def find(name: str) -> str:
        path = shutil.which(name)
        if path is None:
            pytest.skip(f"{name} is not installed on this machine")
        return path

    return find


@pytest.fixture
def lints(program: Program) -> Lints:
    path = program("promtool")

    def check(page: str) -> list[str]:
        """promtool's complaints; [] when it is content."""
        done = subprocess.run(
            [path, "check", "metrics"], input=page, capture_output=True, text=True, timeout=30, check=False
        )
        complaints = [line for line in (done.stdout + done.stderr).splitlines() if line]
        assert bool(complaints) == bool(done.returncode), f"status {done.returncode} with {complaints}"
        return complaints

    return check
