"""The emulator as a process of its own."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from click.testing import CliRunner

from infermesh.emulator.__main__ import main
from infermesh.testing.h11_client import H11Client

pytestmark = pytest.mark.slow


@asynccontextmanager
async def _process(*options: str) -> AsyncIterator[tuple[trio.Process, tuple[str, int], str]]:
    """A running emulator, its address, and the line it printed."""
    command = [sys.executable, "-m", "infermesh.emulator", *options]
    process = await trio.lowlevel.open_process(command, stderr=subprocess.PIPE)
    try:
        assert process.stderr is not None
        line = b""
        with trio.fail_after(30):
            while not line.endswith(b"\n"):
                piece = await process.stderr.receive_some()
                assert piece, line
                line += piece
        found = re.search(rb"listening on http://([\d.]+):(\d+)", line)
        assert found is not None, line
        yield process, (found[1].decode(), int(found[2])), line.decode()
    finally:
        process.kill()
        await process.wait()
        if process.stderr is not None:
            await process.stderr.aclose()


async def test_it_says_that_it_is_emulated_serves_and_ends_cleanly_on_sigterm() -> None:
    async with _process("--profile", "tiny", "--model", "one", "--model", "two") as (process, address, line):
        assert line.startswith("emulated engine (no GPU; profile tiny, speed 1) serving one, two, listening on")
        async with await H11Client.dial(address) as client:
            rows = json.loads((await client.fetch("GET", "/v1/models")).body)["data"]
            assert [row["id"] for row in rows] == ["one", "two"]
        process.send_signal(signal.SIGTERM)
        with trio.fail_after(10):
            assert await process.wait() == 0


async def test_the_crash_fault_ends_the_process_at_once() -> None:
    async with _process("--profile", "tiny") as (process, address, _):
        async with await H11Client.dial(address) as client:
            await client.send("POST", "/emulator/faults", b'{"crash": true}')
            await client.ended()
        with trio.fail_after(10):
            assert await process.wait() == 70


async def test_faults_may_be_given_at_the_start() -> None:
    async with (
        _process("--faults", '{"sinkhole_probability": 1}') as (_, address, _line),
        await H11Client.dial(address) as client,
    ):
        assert (await client.fetch("POST", "/v1/completions", b'{"prompt": "x"}')).status == 500


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--profile", "abacus"], "'abacus' is not one of"),
        (["--speed", "0"], "speed=0.0: must be finite and above 0"),
        (["--slots", "9000"], "slots=9000: must be from 0"),
        (["--faults", '{"nope": 1}'], "the switches are"),
        (["--model", "a", "--model", "a"], "each once"),
        (["--port", "70000"], "port=70000"),
    ],
)
def test_options_that_make_no_sense_are_refused_in_words(options: list[str], words: str) -> None:
    result = CliRunner().invoke(main, options)
    assert result.exit_code == 2
    assert words in result.output


def test_a_port_that_is_taken_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = CliRunner().invoke(main, ["--port", str(port)])
    assert result.exit_code == 1
    assert f"cannot listen on 127.0.0.1 port {port}" in result.output


def test_the_help_has_examples() -> None:
    assert "curl http://127.0.0.1:8001/v1/completions" in CliRunner().invoke(main, ["--help"]).output
