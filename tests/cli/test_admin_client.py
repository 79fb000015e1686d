"""Asking an admin port: every failure has its exit code, and a sentence that says what to do."""

from __future__ import annotations

import socket

import pytest

from infermesh.cli.admin_client import path_of
from infermesh.testing.commands import RunCommand
from infermesh.testing.fake_admin import FakeAdmin


@pytest.fixture
def nowhere() -> str:
    """An address on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


ASKING = [("nodes",), ("models",), ("gpus",), ("score", "m"), ("explain", "x"), ("top", "--once")]


@pytest.mark.parametrize("command", ASKING, ids=lambda command: command[0])
@pytest.mark.parametrize("json_flag", [(), ("--json",)], ids=["text", "json"])
def test_nobody_there_is_exit_5_with_the_address_and_the_option(
    mesh: RunCommand, nowhere: str, command: tuple[str, ...], json_flag: tuple[str, ...]
) -> None:
    result = mesh(*command, "--admin", nowhere, *json_flag)
    assert (result.exit_code, result.stdout) == (5, "")
    assert result.stderr == (
        f"Error: no answer from the admin port at {nowhere} (connection refused): start meshd there, or name another "
        "with --admin URL or INFERMESH_ADMIN\n"
    )


def test_the_environment_names_the_port_and_the_option_wins(
    mesh: RunCommand, admin: FakeAdmin, nowhere: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INFERMESH_ADMIN", admin.url)
    assert mesh("models").exit_code == 0
    assert mesh("models", "--admin", nowhere).exit_code == 5


def test_a_scheme_may_be_left_out(mesh: RunCommand, admin: FakeAdmin) -> None:
    assert mesh("models", "--admin", admin.url.removeprefix("http://")).exit_code == 0


@pytest.mark.parametrize("url", ["ftp://host", "http://", "http://user:secret@host"])
def test_what_is_no_address_is_wrong_usage(mesh: RunCommand, url: str) -> None:
    result = mesh("nodes", "--admin", url)
    assert result.exit_code == 2
    assert "secret" not in result.output


@pytest.mark.parametrize(
    ("status", "body", "code", "words"),
    [
        (401, {"error": {"message": "no token"}}, 3, "refused: no token"),
        (403, b"", 3, "refused: it names no reason"),
        (503, {"error": {"message": "no leader", "code": "no_leader"}}, 4, "no leader; try again when"),
        (503, {"message": "stopping"}, 1, "answered 503: stopping"),
        (404, {"error": {"message": "no node serves 'm'"}}, 1, "answered 404: no node serves 'm'"),
        (404, b"<html>", 1, "is not there: give --admin the admin port of a meshd"),
        (500, b"", 1, "answered 500: no reason given"),
        (200, b"<html>", 1, "answered what no meshd answers"),
        (200, {"nodes": 7}, 1, "answered what no meshd answers"),
    ],
)
def test_refusals_and_strange_answers(
    mesh: RunCommand, admin: FakeAdmin, status: int, body: object, code: int, words: str
) -> None:
    admin.put("/v1/nodes", body, status=status)
    result = mesh("nodes", "--admin", admin.url)
    assert (result.exit_code, result.stdout) == (code, "")
    assert words in result.stderr
    assert result.stderr.count("\n") == 1


def test_paths_are_escaped_and_empty_values_left_out() -> None:
    assert path_of("v1", "explain", "a/b c") == "/v1/explain/a%2Fb%20c"
    assert path_of("v1", "score", model="org/name", prompt_tokens=0) == "/v1/score?model=org%2Fname"
