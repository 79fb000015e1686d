"""`mesh score MODEL`."""

from __future__ import annotations

import json

from infermesh.testing.admin_pages import SCORE
from infermesh.testing.commands import RunCommand
from infermesh.testing.fake_admin import FakeAdmin


def test_candidates_are_shown_with_their_parts_and_the_others_with_a_reason(mesh: RunCommand, admin: FakeAdmin) -> None:
    result = mesh("score", "emulated-8b", "--prompt-tokens", 4000, "--output-tokens", 100, "--admin", admin.url)
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[:6] == [
        "emulated-8b (emulated), policy predicted_ms",
        "",
        "NODE   SCORE     RANGE  TTFT  TOTAL  NETWORK  QUEUE  PREFILL  DECODE  PENALTY  LEARNT  IN FLIGHT    AGE",
        "gpu-a    825  806..843   393  1,370      5.3    206      182     977        0   x1.28          8  13 ms",
        "not chosen: gpu-b: node dead",
        "",
    ]
    assert admin.asked[0] == "/v1/score?model=emulated-8b&prompt_tokens=4000&output_tokens=100"


def test_json_is_the_daemons_own_document(mesh: RunCommand, admin: FakeAdmin) -> None:
    assert json.loads(mesh("score", "emulated-8b", "--admin", admin.url, "--json").stdout) == SCORE
    assert admin.asked == ["/v1/score?model=emulated-8b"]


def test_no_candidate_is_said(mesh: RunCommand, admin: FakeAdmin) -> None:
    admin.put("/v1/score", {"model": "llama", "policy": "predicted_ms", "excluded": [{"node": "gpu-b"}]})
    lines = mesh("score", "llama", "--admin", admin.url).stdout.splitlines()
    assert lines[0] == "llama, policy predicted_ms"
    assert lines[2:4] == ["no target can be chosen now", "not chosen: gpu-b: no reason given"]


def test_an_unknown_model_fails_with_the_daemons_words(mesh: RunCommand, admin: FakeAdmin) -> None:
    admin.put("/v1/score", {"error": {"message": "no node serves 'x'; /v1/models lists the models"}}, status=404)
    result = mesh("score", "x", "--admin", admin.url)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "no node serves 'x'" in result.stderr


def test_counts_must_be_counts(mesh: RunCommand) -> None:
    assert mesh("score", "m", "--prompt-tokens", "-1").exit_code == 2
