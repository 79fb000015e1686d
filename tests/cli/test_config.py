import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from infermesh.cli.config import config
from infermesh.node.config_source import SPECS


def _run(*arguments: str | Path, **environ: str) -> Result:
    return CliRunner(env=environ).invoke(config, [str(argument) for argument in arguments])


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "node.toml"
    file.write_text('[node]\nid = "edge"\n[client]\nhead_timeout_s = 3\n')
    return file


def test_explain_prints_every_key_and_marks_what_somebody_set(file: Path) -> None:
    result = _run("explain", "--config", file, "--set", "logs.level=debug", INFERMESH_RETRY__BUDGET="0.1")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert all(any(key in line for line in lines) for key in SPECS)
    starred = [" ".join(line.split()) for line in lines if line.startswith("*")]
    assert starred == [
        f'* node.id = "edge" [{file}; required]',
        f"* client.head_timeout_s = 3.0 s [{file}; default 10.0]",
        "* retry.budget = 0.1 share [environment INFERMESH_RETRY__BUDGET; default 0.2]",
        '* logs.level = "debug" [flag logs.level; default "info"]',
    ]
    assert "[[peers]]" in lines


def test_explain_works_before_there_is_a_file() -> None:
    result = _run("explain", "--json")
    assert result.exit_code == 0
    document = json.loads(result.stdout)
    assert document["file"] == "no config file"
    assert {row["key"] for row in document["keys"]} >= set(SPECS)
    [row] = [row for row in document["keys"] if row["key"] == "client.listen"]
    assert row == {
        "key": "client.listen",
        "value": "127.0.0.1:8080",
        "unit": "host:port",
        "default": "127.0.0.1:8080",
        "origin": "default",
        "allowed": "",
        "doc": "Where clients connect (HTTP/1.1, HTTP/2, gRPC, WebSocket).",
    }


def test_check_says_yes_with_exit_0(file: Path) -> None:
    result = _run("check", "--config", file)
    assert (result.exit_code, result.stdout) == (0, f"{file}: node edge can use this config\n")
    document = json.loads(_run("check", "--config", file, "--json").stdout)
    assert document == {"file": str(file), "usable": True, "problems": [], "node": "edge"}


@pytest.mark.parametrize("verb", ["check", "explain"])
def test_every_fault_is_told_with_exit_1(file: Path, verb: str) -> None:
    file.write_text('[node]\nid = "edge"\n[client]\nlistn = 1\n[logs]\nlevel = "loud"\n')
    result = _run(verb, "--config", file)
    assert (result.exit_code, result.stdout) == (1, "")
    assert [line.split(" = ")[0] for line in result.stderr.splitlines()] == [
        f"{file}: client.listn",
        f"{file}: logs.level",
    ]
    as_json = _run(verb, "--config", file, "--json")
    document = json.loads(as_json.stdout)
    assert (as_json.exit_code, document["usable"], len(document["problems"])) == (1, False, 2)


def test_check_needs_a_name_even_without_a_file() -> None:
    assert _run("check").exit_code == 1
    assert _run("check", INFERMESH_NODE__ID="edge").exit_code == 0


def test_a_set_that_is_no_assignment_is_a_usage_error(file: Path) -> None:
    for wrong in ("client.listen", "listen=1", "=x"):
        assert _run("check", "--config", file, "--set", wrong).exit_code == 2
