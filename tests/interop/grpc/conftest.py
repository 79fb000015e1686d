"""A trust domain that all tests here share: making one costs more than starting a mesh in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from infermesh.testing.certificates import TrustDomain


@pytest.fixture(scope="session")
def trust(tmp_path_factory: pytest.TempPathFactory) -> TrustDomain:
    folder: Path = tmp_path_factory.mktemp("trust")
    return TrustDomain(folder)
