"""`mesh explain REQUEST_ID`."""

from __future__ import annotations

import json

from infermesh.testing.admin_pages import EXPLAIN
from infermesh.testing.commands import RunCommand
from infermesh.testing.fake_admin import FakeAdmin


def test_the_choice_and_every_attempt_are_shown(mesh: RunCommand, admin: FakeAdmin) -> None:
    result = mesh("explain", "abc123", "--admin", admin.url)
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[:10] == [
        "request     abc123",
        "asked       /v1/completions (http/2)",
        "model       emulated-8b",
        "received    2023-11-14 22:13:20.250 UTC",
        "priority    default",
        "policy      predicted_ms",
        "waited      12.5 ms for a slot of the fleet",
        "status      200",
        "ending      failed: broken_stream",
        "",
    ]
    assert "not chosen: gpu-b: node dead" in lines
    assert lines[-5:] == [
        "Attempts:",
        "ATTEMPT  NODE   KIND   VERDICT    FIRST BYTE ms  TOTAL ms  DETAIL",
        "      1  gpu-a  first  cancelled              -       140",
        "      2  gpu-c  hedge  ok                    44       900",
        "      3  gpu-b  retry  under way              -         -  why",
    ]


def test_json_is_the_daemons_own_document(mesh: RunCommand, admin: FakeAdmin) -> None:
    assert json.loads(mesh("explain", "abc123", "--admin", admin.url, "--json").stdout) == EXPLAIN


def test_a_request_that_was_refused_has_no_attempt(mesh: RunCommand, admin: FakeAdmin) -> None:
    admin.put("/v1/explain/r", {"request_id": "r", "status": 429, "excluded": [{"node": "n", "reason": "stale"}]})
    lines = mesh("explain", "r", "--admin", admin.url).stdout.splitlines()
    assert lines[-2:] == ["not chosen: n: stale", "No attempt was made."]
    assert "waited      not at all" in lines


def test_a_request_that_nobody_remembers_fails(mesh: RunCommand, admin: FakeAdmin) -> None:
    admin.put("/v1/explain/x%2Fy", {"error": {"message": "not remembered; ask the router that took it"}}, status=404)
    result = mesh("explain", "x/y", "--admin", admin.url)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "ask the router that took it" in result.stderr
