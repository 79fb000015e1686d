"""What the tests of commands share: `mesh` as a function, and a fake admin port with a daemon's pages."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from infermesh.cli.main import main
from infermesh.testing.admin_pages import EXPLAIN, MODELS, NODES, SCORE, SUMMARY
from infermesh.testing.commands import RunCommand, runner_of
from infermesh.testing.fake_admin import FakeAdmin


@pytest.fixture
def mesh(monkeypatch: pytest.MonkeyPatch) -> RunCommand:
    """Runs `mesh ARGUMENTS` in this process."""
    monkeypatch.delenv("INFERMESH_ADMIN", raising=False)
    return runner_of(main)


@pytest.fixture
def admin() -> Iterator[FakeAdmin]:
    pages: dict[str, object] = {
        "/v1/nodes": NODES,
        "/v1/models": MODELS,
        "/v1/score": SCORE,
        "/v1/explain/abc123": EXPLAIN,
        "/v1/summary": SUMMARY,
    }
    with FakeAdmin(pages) as fake:
        yield fake
