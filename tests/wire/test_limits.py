"""Constants, table, code and tests of the wire limits hang together: a limit that nobody enforces is a lie."""

from __future__ import annotations

from pathlib import Path

import pytest

from wire import limits
from wire.limits import LIMITS, Limit

ROOT = Path(__file__).resolve().parents[2]


def test_every_constant_has_one_row_and_every_row_its_constant() -> None:
    constants = {name: value for name, value in vars(limits).items() if name.endswith("_MAX")}
    rows = [(row.name, row.value) for row in LIMITS]
    assert sorted(rows) == sorted(constants.items())


def test_rows_say_what_happens_at_the_limit() -> None:
    for row in LIMITS:
        assert row.value > 0, row.name
        assert row.unit and row.what and row.at_limit, row.name


def _uses(name: str, *folders: str) -> list[str]:
    own = (ROOT / "wire" / "limits.py", Path(__file__).resolve())
    files = [file for folder in folders for file in sorted((ROOT / folder).rglob("*.py")) if file not in own]
    return [file.relative_to(ROOT).as_posix() for file in files if name in file.read_text("utf-8")]


@pytest.mark.parametrize("row", LIMITS, ids=lambda row: row.name)
def test_each_limit_is_enforced_and_tested(row: Limit) -> None:
    assert _uses(row.name, "wire", "infermesh"), f"{row.name} is enforced nowhere; enforce it or remove it"
    assert _uses(row.name, "tests"), f"no test names {row.name}; test the last value allowed and the first refused"
