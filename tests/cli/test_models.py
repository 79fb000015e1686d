"""`mesh models`."""

from __future__ import annotations

import json

from infermesh.testing.admin_pages import MODELS
from infermesh.testing.commands import RunCommand
from infermesh.testing.fake_admin import FakeAdmin


def test_models_are_shown_and_emulated_ones_are_called_so(mesh: RunCommand, admin: FakeAdmin) -> None:
    result = mesh("models", "--admin", admin.url)
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        "MODEL         READY  QUEUE  RUNNING  NODES  NOTE",
        "emulated-8b  1 of 1      2        3  gpu-a  emulated",
        "llama        0 of 1      0        0  gpu-b",
    ]


def test_json_is_the_daemons_own_document(mesh: RunCommand, admin: FakeAdmin) -> None:
    assert json.loads(mesh("models", "--admin", admin.url, "--json").stdout) == MODELS


def test_no_model_says_where_to_look(mesh: RunCommand, admin: FakeAdmin) -> None:
    admin.put("/v1/models", {"models": []})
    assert "`mesh nodes` shows which nodes are heard" in mesh("models", "--admin", admin.url).stdout
