"""`mesh gpus`."""

from __future__ import annotations

import json

from infermesh.testing.admin_pages import NODES
from infermesh.testing.commands import RunCommand
from infermesh.testing.fake_admin import FakeAdmin


def test_gpus_are_shown_and_health_that_is_unknown_says_so(mesh: RunCommand, admin: FakeAdmin) -> None:
    result = mesh("gpus", "--admin", admin.url)
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        "NODE   GPU    NAME  HEALTH   BUSY   MEMORY GiB  TEMPERATURE  POWER",
        "gpu-b  GPU-1  H100  unknown  50 %  1.0 of 80.0         51 C  300 W",
    ]


def test_json_has_each_gpu_with_its_node(mesh: RunCommand, admin: FakeAdmin) -> None:
    document = json.loads(mesh("gpus", "--admin", admin.url, "--json").stdout)
    assert [(gpu["node"], gpu["gpu_uuid"], gpu["power_w"]) for gpu in document["gpus"]] == [("gpu-b", "GPU-1", 300.0)]


def test_without_a_gpu_the_emulated_engines_are_named(mesh: RunCommand, admin: FakeAdmin) -> None:
    admin.put("/v1/nodes", {"nodes": NODES["nodes"][:2]})  # type: ignore[index]
    result = mesh("gpus", "--admin", admin.url)
    assert (result.exit_code, result.stdout) == (0, "no GPU: no node reports one; emulated engines run on gpu-a\n")
    assert json.loads(mesh("gpus", "--admin", admin.url, "--json").stdout) == {"gpus": []}
