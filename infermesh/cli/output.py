"""What `mesh` prints: aligned tables for people, one JSON document for programs, and how figures are written.

Everything goes to stdout here, and nothing else of the program does; errors and progress belong on stderr. Colour
only on a terminal: rich sees to it, and to NO_COLOR. Not here: what is in the tables.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Sequence

import click
import msgspec
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

UNKNOWN = "-"
# A pipe has no width: lines are as long as they are, so that grep and awk see whole rows.
_PIPE_COLUMNS = 1_000

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")

Cell = str | Text

_GAP = 2
# The least that words which may fold are given.
_FOLDED_COLUMNS = 16


class Column(msgspec.Struct, frozen=True):
    title: str
    right: bool = False  # Figures stand under each other by their last digit.
    folds: bool = False  # Words that may go on in a second line.
    drop: int = 0  # On a terminal that is too narrow, the highest go first; 0 stays.


def console(*, stderr: bool = False) -> Console:
    """A console on the stream as it is now: tests and pipes replace it."""
    stream = sys.stderr if stderr else sys.stdout
    terminal = stream.isatty()
    return Console(file=stream, highlight=False, markup=False, emoji=False, width=None if terminal else _PIPE_COLUMNS)


def make_table(columns: Sequence[Column], rows: Iterable[Sequence[Cell]], *, width: int | None = None) -> Table:
    """A table that fits: on a narrow terminal (`width` columns wide) the least important columns are left out.

    In a pipe everything fits, and `--json` has all there is.
    """
    cells = list(rows)
    shown = fitting(columns, cells, console().width if width is None else width)
    table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="bold", show_edge=False)
    for index in shown:
        column = columns[index]
        table.add_column(
            Text(column.title), justify="right" if column.right else "left", no_wrap=not column.folds, overflow="fold"
        )
    for row in cells:
        table.add_row(*(row[index] for index in shown))
    return table


def fitting(columns: Sequence[Column], rows: Sequence[Sequence[Cell]], width: int) -> list[int]:
    """The indexes of the columns that fit into `width`."""
    assert all(len(row) == len(columns) for row in rows), "each row has a cell for each column"
    widths = []
    for index, column in enumerate(columns):
        widest = max((len(row[index]) for row in rows), default=0)
        widths.append(max(len(column.title), min(widest, _FOLDED_COLUMNS) if column.folds else widest) + _GAP)
    shown = list(range(len(columns)))
    while sum(widths[index] for index in shown) - _GAP > width:
        least = max(shown, key=lambda index: columns[index].drop)
        if not columns[least].drop:
            break
        shown.remove(least)
    return shown


def show(*parts: RenderableType) -> None:
    """Print the parts, one under the other, without blanks at line ends."""
    target = console()
    if target.is_terminal:
        for part in parts:
            target.print(part)
        return
    # Cells are padded to their column's width; in a pipe the padding of the last one is noise.
    for part in parts:
        with target.capture() as captured:
            target.print(part)
        click.echo("\n".join(line.rstrip() for line in captured.get().splitlines()))


def show_json(document: object) -> None:
    """The one JSON document of a command."""
    click.echo(msgspec.json.format(msgspec.json.encode(document), indent=2).decode())


# --- How figures are written ---


def in_ms(value_ms: float) -> str:
    """Milliseconds without the unit, which the column's title has; 0 is unknown."""
    if not math.isfinite(value_ms) or value_ms == 0.0:
        return UNKNOWN
    return f"{value_ms:.1f}" if abs(value_ms) < 10.0 else f"{value_ms:,.0f}"


def signed_ms(value_ms: float) -> str:
    """Milliseconds of a part of a sum, where 0 is a figure."""
    return "0" if abs(value_ms) < 0.05 else in_ms(value_ms)


def in_seconds(value_s: float) -> str:
    """A span of time in the two words that matter."""
    if not math.isfinite(value_s):
        return UNKNOWN
    if value_s < 1.0:
        return f"{value_s * 1e3:.0f} ms"
    if value_s < 60.0:
        return f"{value_s:.1f} s"
    for size_s, unit, smaller_s, smaller in ((86_400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if value_s >= size_s:
            rest = int(value_s % size_s // smaller_s)
            return f"{int(value_s // size_s)} {unit}" + (f" {rest} {smaller}" if rest else "")
    raise AssertionError(value_s)


def in_percent(share: float) -> str:
    if not math.isfinite(share):
        return UNKNOWN
    percent = share * 100.0
    return f"{percent:.0f} %" if percent == 0.0 or percent >= 10.0 else f"{percent:.1f} %"


def in_gib(size_bytes: float) -> str:
    return f"{size_bytes / 2**30:.1f}"


def rate(value_per_s: float) -> str:
    if value_per_s <= 0.0 or not math.isfinite(value_per_s):
        return UNKNOWN
    return f"{value_per_s:.1f}" if value_per_s < 10.0 else f"{value_per_s:,.0f}"


def coloured(text: str, styles: dict[str, str]) -> Text:
    """The text in the style of its first word, where `styles` has one for it."""
    return Text(text, style=styles.get(text.split(" ", 1)[0], ""))


def or_unknown(value: float, write: Callable[[float], str]) -> str:
    return write(value) if value else UNKNOWN
