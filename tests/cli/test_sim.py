import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from infermesh.cli.sim import sim
from infermesh.sim.checks import ConservationError

TRACES = Path(__file__).parents[1] / "fixtures" / "traces"
CODE = TRACES / "azure_llm_2023_code_300.csv"
CONVERSATION = TRACES / "mooncake_conversation_300.jsonl"


def _run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(sim, ["routing", *(str(argument) for argument in arguments)])


def test_policies_are_compared_in_a_table() -> None:
    result = _run("--trace", CODE, "--requests", "40", "--policies", "predicted_ms,round_robin", "--nodes", "1,0.5")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0].split()[:2] == ["policy", "done"]
    assert [line.split()[:2] for line in lines[1:3]] == [["predicted_ms", "100.00%"], ["round_robin", "100.00%"]]
    assert lines[3].startswith("predicted_ms: gpu-0 x1: ")


def test_json_is_one_document_and_the_same_for_the_same_seed() -> None:
    arguments = ("--trace", CONVERSATION, "--requests", "30", "--policies", "power_of_two", "--seed", "9", "--json")
    first, second = _run(*arguments), _run(*arguments)
    assert first.exit_code == 0
    assert first.stdout == second.stdout
    [report] = json.loads(first.stdout)["reports"]
    assert (report["policy"], report["seed"], report["arrived"], report["completed"]) == ("power_of_two", 9, 30, 30)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--trace", CODE, "--policies", "fastest"), "'fastest' is no policy; known are predicted_ms"),
        (("--trace", CODE, "--nodes", "b200"), "'b200' is neither a speed, a profile, nor PROFILE:SPEED"),
        (("--trace", "nowhere.csv"), "does not exist"),
        ((), "Missing option '--trace'"),
    ],
)
def test_wrong_usage_is_said_on_stderr_with_exit_2(arguments: tuple[str | Path, ...], message: str) -> None:
    result = _run(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr


def test_a_file_that_is_no_trace_fails_with_exit_1(tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    file.write_bytes(b"TIMESTAMP,ContextTokens,GeneratedTokens\nnow,1,1\n")
    result = _run("--trace", file)
    assert result.exit_code == 1
    assert f"{file}:2: not TIMESTAMP,ContextTokens,GeneratedTokens: 'now,1,1'" in result.stderr
    file.write_bytes(b"\xff\xfe")
    assert "not text: invalid start byte at byte 0" in _run("--trace", file).stderr


def test_a_simulation_that_does_not_add_up_prints_no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    def compare(*_: object, **__: object) -> None:
        raise ConservationError("3 requests arrived and 2 ended")

    monkeypatch.setattr("infermesh.cli.sim.compare_policies", compare)
    result = _run("--trace", CODE, "--json")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "there are no figures: 3 requests arrived and 2 ended" in result.stderr
