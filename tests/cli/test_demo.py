"""`mesh demo` with its real processes: a bounded run, a killed node, an orphaned fleet, and the verbs against it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio

from infermesh.net.fetch import FetchError, FetchRefusedError, fetch
from infermesh.testing.commands import RunCommand

DEADLINE_S = 120


def _demo(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "infermesh.cli.main", "demo", *arguments],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )


@contextmanager
def _running(folder: Path, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], str, str]]:
    """A demo that says that it is up: the process, its client and its admin address."""
    demo = subprocess.Popen(
        [sys.executable, "-m", "infermesh.cli.main", "demo", "--keep", str(folder), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert demo.stdout is not None
    try:
        client = admin = ""
        for line in demo.stdout:
            name, _, rest = line.partition(" ")
            if name == "clients":
                client = rest.split()[0].removesuffix("/v1")
            if name == "admin":
                admin = rest.split()[0].removesuffix("/metrics")
            if name == "try":
                break
        assert client
        assert admin
        yield demo, client, admin
    finally:
        demo.kill()
        demo.stdout.close()
        demo.wait(DEADLINE_S)


def _wait_gone(url: str) -> None:
    """Until nobody listens there."""

    async def ask() -> None:
        with trio.fail_after(10):
            while True:
                try:
                    await fetch(f"{url}/healthz", deadline_s=2.0, body_bytes_max=1_000)
                except FetchRefusedError:
                    return
                except FetchError:
                    pass  # It closes at this very moment.
                await trio.sleep(0.05)

    trio.run(ask)


@pytest.mark.slow
def test_a_bounded_run_prints_one_document_and_no_request_fails() -> None:
    done = _demo("--once", "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["requests"] == 120
    assert document["failed"] == document["rejected"] == document["client_errors"] == 0
    assert document["completed"] + document["cancelled"] == 120
    assert document["cancelled"] == 6
    assert document["cancelled_upstream"] >= 6, "clients that left must be felt at the engine"
    assert sorted(document["choices"]) == ["gpu-a", "gpu-b", "gpu-c"]
    assert sum(document["choices"].values()) >= 120
    assert 0 < document["ttft_ms"]["p50"] <= document["ttft_ms"]["p99"]
    assert document["hedges"]["fired"] >= 1, "one engine was slow for a moment"
    assert document["hedges"]["fired"] <= 1 + 0.05 * 120
    assert document["emulated"] is True
    assert all(node["emulated"] for node in document["nodes"])
    assert document["load_s"] < document["duration_s"]


@pytest.mark.slow
def test_a_node_killed_under_load_costs_only_the_streams_that_flowed_from_it() -> None:
    done = _demo("--once", "--kill", "--json")
    document = json.loads(done.stdout)
    assert done.returncode == 0, done.stderr
    kill = document["kill"]
    assert kill["failed_other"] == 0
    assert kill["failed_flowing"] == document["failed"]
    assert kill["out_of_choice_s"] < 3.5, "dead_after_s is 3"
    assert kill["used_again_s"] is not None
    # Each of them ended with an error event in place of a silent cut.
    assert all(cause.startswith("error event: the stream broke off") for cause in document["causes"])


@pytest.mark.slow
def test_the_verbs_work_against_it_and_ctrl_c_stops_it_cleanly(tmp_path: Path, mesh: RunCommand) -> None:
    with _running(tmp_path, "--no-load") as (demo, client, admin):
        nodes = json.loads(mesh("nodes", "--admin", admin, "--json").stdout)["nodes"]
        assert {node["node"]: node["state"] for node in nodes} == dict.fromkeys(
            ("edge", "gpu-a", "gpu-b", "gpu-c"), "alive"
        )
        assert mesh("nodes", "--admin", admin).stdout.count("emulated-8b  emulated  ready") == 3
        assert "3 of 3" in mesh("models", "--admin", admin).stdout
        score = mesh("score", "emulated-8b", "--prompt-tokens", 2_000, "--admin", admin)
        assert score.stdout.startswith("emulated-8b (emulated), policy predicted_ms\n")
        assert "gpu-c" in score.stdout
        assert mesh("top", "--once", "--admin", admin).exit_code == 0
        assert mesh("gpus", "--admin", admin).exit_code == 0
        request_id = trio.run(_complete, client)
        assert request_id in mesh("explain", request_id, "--admin", admin).stdout
        assert mesh("explain", "unknown", "--admin", admin).exit_code == 1
        assert mesh("score", "unknown", "--admin", admin).exit_code == 1
        demo.send_signal(signal.SIGINT)
        assert demo.wait(DEADLINE_S) == 0
        _wait_gone(admin)
    assert {file.name for file in tmp_path.glob("*.log")} == {"edge.log", "gpu-a.log", "gpu-b.log", "gpu-c.log"}
    assert all("node_stopped" in file.read_text() for file in tmp_path.glob("*.log"))


@pytest.mark.slow
def test_a_demo_that_is_killed_leaves_no_daemon(tmp_path: Path) -> None:
    with _running(tmp_path, "--gpus", "1") as (demo, _, admin):
        os.kill(demo.pid, signal.SIGKILL)
        demo.wait(DEADLINE_S)
        _wait_gone(admin)


async def _complete(client: str) -> str:
    """One completion; its request id."""
    answer = await fetch(
        f"{client}/v1/completions",
        method="POST",
        headers=[(b"content-type", b"application/json")],
        body=b'{"model": "emulated-8b", "prompt": "hello", "max_tokens": 3}',
        deadline_s=30.0,
        body_bytes_max=10_000,
    )
    assert answer.status == 200, answer.body
    request_id = answer.header(b"x-infermesh-request-id")
    assert request_id is not None
    return request_id.decode()


@pytest.mark.parametrize(
    "arguments",
    [("--gpus", 0), ("--gpus", 99), ("--rate", 0), ("--no-load", "--once"), ("--no-load", "--kill"), ("--port", 80)],
    ids=lambda arguments: " ".join(map(str, arguments)),
)
def test_what_makes_no_sense_is_wrong_usage(mesh: RunCommand, arguments: tuple[object, ...]) -> None:
    result = mesh("demo", *arguments)
    assert (result.exit_code, result.stdout) == (2, "")


def test_a_taken_port_is_named_and_nothing_is_printed_on_stdout(mesh: RunCommand) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        result = mesh("demo", "--once", "--json", "--port", port)
    assert (result.exit_code, result.stdout) == (1, "")
    assert f"port {port}" in result.stderr
    assert "give --port another first port" in result.stderr
