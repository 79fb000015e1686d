"""Figures and tables as people read them."""

from __future__ import annotations

import json
import math

import pytest
from rich.text import Text

from infermesh.cli.output import (
    Column,
    coloured,
    fitting,
    in_gib,
    in_ms,
    in_percent,
    in_seconds,
    make_table,
    or_unknown,
    rate,
    show,
    show_json,
    signed_ms,
)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "-"), (math.inf, "-"), (math.nan, "-"), (0.42, "0.4"), (9.96, "10.0"), (10.0, "10"), (12_345.6, "12,346")],
)
def test_milliseconds(value: float, text: str) -> None:
    assert in_ms(value) == text


def test_nothing_is_a_figure_where_it_is_part_of_a_sum() -> None:
    assert [signed_ms(0.0), signed_ms(0.04), signed_ms(3.21)] == ["0", "0", "3.2"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0 ms"),
        (0.03, "30 ms"),
        (1.0, "1.0 s"),
        (59.96, "60.0 s"),
        (60.0, "1 min"),
        (125.0, "2 min 5 s"),
        (3_600.0, "1 h"),
        (7_500.0, "2 h 5 min"),
        (200_000.0, "2 d 7 h"),
        (math.inf, "-"),
    ],
)
def test_spans_of_time(value: float, text: str) -> None:
    assert in_seconds(value) == text


def test_shares_sizes_and_rates() -> None:
    assert [in_percent(share) for share in (0.0, 0.004, 0.125, 1.0)] == ["0 %", "0.4 %", "12 %", "100 %"]
    assert in_percent(math.nan) == "-"
    assert in_gib(80 * 2**30) == "80.0"
    assert [rate(value) for value in (0.0, 5.45, 1234.0)] == ["-", "5.5", "1,234"]
    assert [or_unknown(0.0, in_ms), or_unknown(4.0, in_ms)] == ["-", "4.0"]


def test_a_table_in_a_pipe_is_aligned_whole_and_without_colour_or_trailing_blanks(
    capsys: pytest.CaptureFixture[str],
) -> None:
    table = make_table(
        [Column("NAME"), Column("QUEUE", right=True), Column("NOTE")],
        [["gpu-a", "7", "x" * 300], [Text("b", style="red"), "1,200", ""]],
    )
    show("title", table)
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["title", "NAME   QUEUE  NOTE", f"gpu-a      7  {'x' * 300}", "b      1,200"]


def test_a_narrow_terminal_gets_the_columns_that_matter_and_words_may_fold() -> None:
    columns = [Column("NODE"), Column("AGE", drop=2), Column("KV", drop=1), Column("NOTE", folds=True)]
    rows = [["gpu-a", "30 ms", "12 %", "a long story about why it is not chosen"]]
    assert fitting(columns, rows, 200) == [0, 1, 2, 3]
    assert fitting(columns, rows, 36) == [0, 1, 2, 3]
    assert fitting(columns, rows, 35) == [0, 2, 3]
    assert fitting(columns, rows, 28) == [0, 3]
    assert fitting(columns, rows, 3) == [0, 3], "what must stay stays"
    with pytest.raises(AssertionError):
        fitting(columns, [["too", "few"]], 80)


def test_markup_in_what_a_daemon_says_is_only_text(capsys: pytest.CaptureFixture[str]) -> None:
    show(make_table([Column("NOTE")], [["[red]not a colour[/red] :smile:"]]))
    assert "[red]not a colour[/red] :smile:" in capsys.readouterr().out


def test_a_document_is_one_json_value_whatever_is_in_it(capsys: pytest.CaptureFixture[str]) -> None:
    show_json({"share": 0.5, "never": math.inf, "name": "é"})
    out = capsys.readouterr().out
    assert json.loads(out) == {"share": 0.5, "never": None, "name": "é"}
    assert out.endswith("}\n")


def test_the_first_word_decides_the_colour() -> None:
    assert coloured("failed 3", {"failed": "red"}).style == "red"
    assert coloured("ready", {"failed": "red"}).style == ""
