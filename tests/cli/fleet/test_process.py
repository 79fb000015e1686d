"""A process of a fleet: on a leash, with a log, and gone when it should be."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from infermesh.cli.fleet.leashed import ORPHANED_EXIT_STATUS
from infermesh.cli.fleet.process import MeshProcess, stop_all
from infermesh.core.model.names import NodeId

# A router without peers needs no identity: the smallest daemon there is.
CONFIG = """
[node]
id = "alone"
roles = ["router"]
[client]
listen = "127.0.0.1:0"
[admin]
listen = "127.0.0.1:0"
[mesh]
listen = "127.0.0.1:0"
"""
DEADLINE_S = 30.0


@pytest.fixture
def process(tmp_path: Path) -> MeshProcess:
    config_file = tmp_path / "node.toml"
    config_file.write_text(CONFIG)
    return MeshProcess(NodeId("alone"), config_file, tmp_path / "alone.log", dict(os.environ))


async def _wait_started(process: MeshProcess) -> None:
    with trio.fail_after(DEADLINE_S):
        while not any("node_started" in line for line in process.log_tail(20)):
            assert process.running, process.log_tail(20)
            await trio.sleep(0.02)


@pytest.mark.slow
async def test_it_starts_again_after_a_kill_and_stops_in_good_order_when_asked(process: MeshProcess) -> None:
    process.start()
    await _wait_started(process)
    process.kill()
    with trio.fail_after(DEADLINE_S):
        await process.wait()
    assert process.exit_status == -signal.SIGKILL
    process.log_file.unlink()
    process.start()
    await _wait_started(process)
    assert await stop_all([process], grace_s=DEADLINE_S) == []
    assert process.exit_status == 0
    assert "node_stopped" in process.log_tail(1)[0]


@pytest.mark.slow
async def test_one_that_does_not_stop_in_time_is_killed_and_named(process: MeshProcess) -> None:
    process.start()
    await _wait_started(process)
    os.kill(process.pid, signal.SIGSTOP)  # It cannot hear SIGTERM.
    assert await stop_all([process], grace_s=0.05) == ["alone"]
    assert process.exit_status == -signal.SIGKILL


@pytest.mark.slow
async def test_it_ends_when_its_starter_is_gone_however_it_went(process: MeshProcess) -> None:
    process.start()
    await _wait_started(process)
    process.release()
    with trio.fail_after(DEADLINE_S):
        await process.wait()
    assert process.exit_status == ORPHANED_EXIT_STATUS


def test_what_was_never_started_has_no_status_and_no_log(process: MeshProcess) -> None:
    assert (process.running, process.exit_status, process.log_tail(5)) == (False, None, [])


def test_the_tail_of_a_log_is_its_last_lines_whatever_bytes_are_in_it(process: MeshProcess) -> None:
    process.log_file.write_bytes(b"first\n" * 5_000 + b"\xff\xfe\nlast\n")
    assert process.log_tail(2) == ["\ufffd\ufffd", "last"]


@pytest.mark.slow
def test_the_leash_holds_before_the_daemon_is_up() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "infermesh.cli.fleet.leashed", "--help"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode in (0, ORPHANED_EXIT_STATUS)
