"""`mesh nodes`."""

from __future__ import annotations

import json

from infermesh.testing.admin_pages import NODES
from infermesh.testing.commands import RunCommand
from infermesh.testing.fake_admin import FakeAdmin


def test_nodes_and_their_targets_are_shown_with_what_is_wrong(mesh: RunCommand, admin: FakeAdmin) -> None:
    result = mesh("nodes", "--admin", admin.url)
    assert result.exit_code == 0
    nodes, targets = result.stdout.split("\n\n")
    assert nodes.splitlines() == [
        "NODE   STATE        FOR  ROLES   ZONE    ADDRESS         RTT ms  RUNTIMES  NOTE",
        "edge   alive  1 min 5 s  router  -       -                    -  -         asked",
        "gpu-a  alive     12.2 s  gpu     rack-1  127.0.0.1:7001    0.31  emulated",
        "gpu-b  dead       3.0 s  gpu     -       127.0.0.1:7002       -  vllm      connection refused",
    ]
    assert [line[:79] for line in targets.splitlines()] == [
        "NODE     MODEL        RUNTIME   STATE    QUEUE  RUNNING    KV  TTFT ms  ITL ms ",
        "gpu-a    emulated-8b  emulated  ready        2    3/256  12 %       92      15 ",
        "gpu-b#1  llama        vllm      unknown      0        0   0 %        -       - ",
    ]
    assert [line[79:] for line in targets.splitlines()] == [
        " TOKENS/s  PREFIX HITS    AGE  IN FLIGHT  NOTE",
        "      120         50 %  30 ms          5",
        "        -            -   0 ms          0  not chosen: node dead",
    ]


def test_json_is_the_daemons_own_document(mesh: RunCommand, admin: FakeAdmin) -> None:
    result = mesh("nodes", "--admin", admin.url, "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout) == NODES


def test_a_node_that_knows_nobody_is_no_error(mesh: RunCommand, admin: FakeAdmin) -> None:
    admin.put("/v1/nodes", {"nodes": [], "a_newer_field": 1})
    result = mesh("nodes", "--admin", admin.url)
    assert result.exit_code == 0
    assert result.stdout.split() == [
        "NODE",
        "STATE",
        "FOR",
        "ROLES",
        "ZONE",
        "ADDRESS",
        "RTT",
        "ms",
        "RUNTIMES",
        "NOTE",
    ]
