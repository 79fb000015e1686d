"""The scripts of the house: each can be asked what it does, does not act when asked, and is sound shell or Python."""

from __future__ import annotations

import ast
import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = sorted([*(ROOT / "scripts").iterdir(), *(ROOT / ".ci").iterdir()])
# Made of other files' names: anything but a program here is a file that nobody finds.
PROGRAMS = [path for path in SCRIPTS if path.is_file()]


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("script", PROGRAMS, ids=name_of)
def test_a_script_is_executable_and_names_its_interpreter(script: Path) -> None:
    first, _, rest = script.read_text("utf-8").partition("\n")
    assert os.access(script, os.X_OK), f"chmod +x {name_of(script)}"
    assert first in ("#!/usr/bin/env bash", "#!/usr/bin/env python3")
    if first.endswith("python3"):
        ast.parse(rest)
        return
    assert "\nset -euo pipefail\n" in rest
    subprocess.run(["bash", "-n", script], check=True, timeout=10)


@pytest.mark.parametrize("script", PROGRAMS, ids=name_of)
def test_a_script_asked_for_help_says_how_it_is_used_and_does_nothing(script: Path, tmp_path: Path) -> None:
    # No home, no network settings, another folder: help must not need them.
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    done = subprocess.run(
        [script, "--help"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "usage: " in done.stdout.lower()
    assert name_of(script) in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_the_two_commands_of_the_readme_exist() -> None:
    assert {"scripts/demo", "scripts/test", "scripts/check", "scripts/bench", ".ci/run"} <= set(map(name_of, PROGRAMS))


def test_an_unknown_benchmark_is_a_usage_error_that_lists_what_there_is() -> None:
    done = subprocess.run(
        [ROOT / "scripts" / "bench", "no-such"], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2
    assert "no benchmark named no-such" in done.stderr
    assert "dataplane" in done.stderr
