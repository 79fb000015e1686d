"""A trace that cannot be read says which file, why, and what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from infermesh.cli.exits import CommandFailed
from infermesh.cli.trace_file import read_trace

TRACES = Path(__file__).parents[1] / "fixtures" / "traces"


def test_both_layouts_are_read() -> None:
    assert len(read_trace(TRACES / "azure_llm_2023_code_300.csv")) == 300
    assert len(read_trace(TRACES / "mooncake_conversation_300.jsonl", requests_max=7)) == 7


def test_what_cannot_be_read_is_said_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(CommandFailed, match=r"none\.csv: cannot be read: No such file"):
        read_trace(tmp_path / "none.csv")
    (tmp_path / "bad.csv").write_text("TIMESTAMP,ContextTokens,GeneratedTokens\nnonsense\n")
    with pytest.raises(CommandFailed, match=r"bad\.csv:2: not TIMESTAMP"):
        read_trace(tmp_path / "bad.csv")
    (tmp_path / "bytes.jsonl").write_bytes(b"\xff\xfe\n")
    with pytest.raises(CommandFailed, match=r"bytes\.jsonl: not text"):
        read_trace(tmp_path / "bytes.jsonl")
    with pytest.raises(CommandFailed, match=r"a trace's name ends in \.csv"):
        read_trace(TRACES / "README.md")
