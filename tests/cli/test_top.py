"""`mesh top`: once where nobody can watch."""

from __future__ import annotations

import json

import pytest

from infermesh.testing.admin_pages import NODES, SUMMARY
from infermesh.testing.commands import RunCommand
from infermesh.testing.fake_admin import FakeAdmin


@pytest.mark.parametrize("arguments", [(), ("--once",)], ids=["pipe", "once"])
def test_it_prints_totals_and_targets_once(mesh: RunCommand, admin: FakeAdmin, arguments: tuple[str, ...]) -> None:
    result = mesh("top", "--admin", admin.url, *arguments)
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[:2] == [
        "requests 1,234  in flight 5  completed 1,200  failed 4  rejected 10  cancelled 15",
        "TTFT ms p50 90  p90 220  p99 1,420   hedges fired 30  won 12  lost 18  denied 7   cancelled upstream 33",
    ]
    assert lines[3].split()[-3:] == ["CHOSEN", "CANCELLED", "NOTE"]
    assert lines[4].split()[-2:] == ["900", "9"]
    assert lines[5].endswith("0          0  not chosen: node dead")


def test_json_is_one_document_of_both_pages(mesh: RunCommand, admin: FakeAdmin) -> None:
    document = json.loads(mesh("top", "--admin", admin.url, "--json").stdout)
    assert document == {"summary": SUMMARY, "nodes": NODES["nodes"]}


def test_a_look_more_often_than_ten_times_a_second_is_wrong_usage(mesh: RunCommand) -> None:
    assert mesh("top", "--interval", "0.01").exit_code == 2
