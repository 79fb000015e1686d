"""The last words of a daemon that ends by a defect: one JSON line like all others, and status 1."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import infermesh.node.main as main

class Broken:
    def __init__(self, *parts, **others): pass
    async def run(self): raise RuntimeError("a part that broke")

main.Node = Broken
main.main()
"""
CONFIG = """
[node]
id = "edge"
[client]
listen = "127.0.0.1:0"
[admin]
listen = "127.0.0.1:0"
"""


@pytest.mark.slow
def test_a_crash_is_an_event_in_the_log_with_its_traceback(tmp_path: Path) -> None:
    config = tmp_path / "node.toml"
    config.write_text(CONFIG, "utf-8")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, "--config", str(config)], capture_output=True, timeout=30, check=False
    )
    assert done.returncode == 1
    line = json.loads(done.stderr)
    assert (line["event"], line["level"], line["node"]) == ("node_crashed", "critical", "edge")
    assert "a part that broke" in line["exception"]
