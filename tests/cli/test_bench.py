"""`mesh bench replay` as a command, against the emulated engine in a thread."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from infermesh.emulator import EmulatorConfig, EmulatorServer, serve_emulator
from infermesh.testing.commands import RunCommand
from infermesh.testing.threaded import ThreadedServer

TRACES = Path(__file__).parents[1] / "fixtures" / "traces"
AZURE = TRACES / "azure_llm_2023_code_300.csv"
MOONCAKE = TRACES / "mooncake_conversation_300.jsonl"


@pytest.fixture
def engine() -> Iterator[EmulatorServer]:
    server: ThreadedServer[EmulatorServer] = ThreadedServer(partial(serve_emulator, EmulatorConfig(speed=200.0)))
    with server as started:
        yield started


@pytest.mark.slow
@pytest.mark.parametrize("trace", [AZURE, MOONCAKE], ids=["azure", "mooncake"])
def test_json_is_one_document_that_accounts_for_every_request(
    mesh: RunCommand, engine: EmulatorServer, trace: Path
) -> None:
    result = mesh(
        *("bench", "replay", "--trace", trace, "--target", engine.url, "--requests", 20, "--speed", 100),
        *("--prompt-scale", 0.1, "--max-output", 5, "--slo-ttft-ms", 60_000, "--slo-itl-ms", 1_000, "--json"),
    )
    assert (result.exit_code, result.stderr) == (0, "")
    document = json.loads(result.stdout)
    ends = ("completed", "rejected", "failed", "cancelled", "client_errors")
    assert document["arrived"] == 20 == sum(document[end] for end in ends)
    assert document["completed"] == 20
    assert document["trace"] == {
        "file": trace.name,
        "requests": 300,
        "planned": 20,
        "speed": 100.0,
        "prompt_scale": 0.1,
        "output_tokens_max": 5,
        "seed": 0,
    }
    assert (document["model"], document["emulated"], document["interrupted"]) == ("emulated-8b", True, False)
    assert document["ttft_ms"]["p99"] >= document["ttft_ms"]["p50"] > 0
    assert document["goodput"]["share"] == 1.0


@pytest.mark.slow
def test_words_say_what_was_played_at_what_and_what_came_of_it(mesh: RunCommand, engine: EmulatorServer) -> None:
    result = mesh(
        *("bench", "replay", "--trace", AZURE, "--target", engine.url, "--requests", 10, "--speed", 100),
        *("--prompt-scale", 0.1, "--max-output", 5),
    )
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0] == (
        "trace         azure_llm_2023_code_300.csv: 10 of 300 requests, 100 times as fast, prompts 0.1 times as long, "
        "answers up to 5 tokens"
    )
    assert lines[1] == f"target        {engine.url}, model emulated-8b (emulated)"
    assert lines[4].split() == ["completed", "10", "100", "%"]
    assert lines[5].split() == ["rejected", "0", "0", "%"]
    assert lines[10].split() == ["MILLISECONDS", "P50", "P90", "P99", "MEAN", "MAX"]
    assert lines[15] == "of the 100 % that completed; from the moment each was due"
    assert lines[17].startswith("goodput       100 % of all, ")


def test_refusals_are_counted_and_with_no_answer_at_all_the_code_is_1(mesh: RunCommand, engine: EmulatorServer) -> None:
    engine.faults.sinkhole_probability = 1.0
    result = mesh(
        *("bench", "replay", "--trace", AZURE, "--target", engine.url, "--requests", 3, "--speed", 1000, "--json"),
        *("--prompt-scale", 0.01),
    )
    document = json.loads(result.stdout)
    assert result.exit_code == 1
    assert (document["failed"], document["causes"]) == (3, {"failed": {"http 500": 3}})


def test_headers_are_sent_and_checked(mesh: RunCommand, engine: EmulatorServer) -> None:
    command = ("bench", "replay", "--trace", AZURE, "--target", engine.url, "--requests", 1, "--prompt-scale", 0.01)
    assert mesh(*command, "--header", "X-Infermesh-Priority: bulk", "--json").exit_code == 0
    result = mesh(*command, "--header", "no header")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "write 'name: value'" in result.stderr
    assert mesh(*command, "--header", "a: b\r\nc: d").exit_code == 2


def test_a_server_that_is_not_there_is_exit_5(mesh: RunCommand) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}"
    result = mesh("bench", "replay", "--trace", AZURE, "--target", url, "--json")
    assert (result.exit_code, result.stdout) == (5, "")
    assert result.stderr == (
        f"Error: {url}/v1/models: connection refused: start the server there, or name another with --target URL\n"
    )


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--trace", "none.csv", "--target", "http://h"), 1, "none.csv: cannot be read"),
        (("--trace", AZURE, "--target", "h:1"), 2, "must begin with http://"),
        (("--trace", AZURE, "--target", "http://h", "--speed", 0), 2, "--speed"),
        (("--trace", AZURE), 2, "--target"),
    ],
    ids=["no-trace", "no-url", "no-speed", "no-target"],
)
def test_wrong_words_are_answered_in_words(
    mesh: RunCommand, arguments: tuple[object, ...], code: int, words: str
) -> None:
    result = mesh("bench", "replay", *arguments)
    assert (result.exit_code, result.stdout) == (code, "")
    assert words in result.stderr
