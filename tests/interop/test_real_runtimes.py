"""Real Triton and real MLServer behind the mesh, driven by Triton's own clients: the two scripts, run as tests.

Where their environments are not there yet, only CI makes them (two minutes each, 0.8 GB); elsewhere the script does,
when a person runs it.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

pytestmark = [pytest.mark.interop, pytest.mark.slow]

ROOT = Path(__file__).resolve().parents[2]
INSTALL_TIMEOUT_S = 900
RUN_TIMEOUT_S = 240


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "infermesh"


@pytest.mark.parametrize(("runtime", "checks_least"), [("triton", 37), ("mlserver", 7)])
def test_clients_of_a_real_runtime_work_through_the_router(runtime: str, checks_least: int) -> None:
    script = ROOT / "scripts" / f"interop-{runtime}"
    if not list(_cache().glob(f"{runtime}/installed-*")):
        if not os.environ.get("CI"):
            pytest.skip(f"{runtime} is not installed: run scripts/interop-{runtime} once")
        installed = subprocess.run(
            [script, "--install-only"], capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S, check=False
        )
        if installed.returncode:
            pytest.skip(f"{runtime} cannot be installed here: {installed.stderr[-300:]}")
    done = subprocess.run([script, "--json"], capture_output=True, text=True, timeout=RUN_TIMEOUT_S, check=False)
    assert done.stdout, done.stderr[-3000:]
    report = json.loads(done.stdout)
    failed = {name: found["error"] for name, found in report["checks"].items() if not found["ok"]}
    assert failed == {}, done.stderr[-3000:]
    assert report["ok"]
    assert len(report["checks"]) >= checks_least
