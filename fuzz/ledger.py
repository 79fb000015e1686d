"""What was run, when, and what it found: fuzz/ledger.jsonl, one line a run, and the table made of it.

Lines are appended by `scripts/fuzz --keep`, so that the figures of docs/fuzzing.md are counted and not claimed.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence

import msgspec

from fuzz.corpus import FOLDER, read_corpus
from fuzz.progress import Progress

FILE = FOLDER / "ledger.jsonl"


class Run(msgspec.Struct, frozen=True, kw_only=True):
    target: str
    engine: str
    date: str
    executions: int
    minutes: float
    cpu_minutes: float = 0.0
    found: str = ""  # The first line of the finding that ended it.


def note(name: str, engine: str, last: Progress) -> None:
    run = Run(
        target=name,
        engine=engine,
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
        executions=last.executions,
        minutes=round(last.seconds / 60, 2),
        cpu_minutes=round(last.cpu_s / 60, 2),
        found=last.finding.why.partition("\n")[0][:120] if last.finding is not None else "",
    )
    with FILE.open("ab") as file:
        file.write(msgspec.json.encode(run) + b"\n")


def table(names: Sequence[str]) -> str:
    """Executions and minutes of each target, as Markdown."""
    decoder = msgspec.json.Decoder(Run)
    runs = decoder.decode_lines(FILE.read_bytes()) if FILE.is_file() else []
    lines = ["| target | executions | minutes | of them CPU | last run | corpus |", "|---|---:|---:|---:|---|---:|"]
    for name in names:
        own = [run for run in runs if run.target == name]
        executions = sum(run.executions for run in own)
        minutes, cpu_minutes = sum(run.minutes for run in own), sum(run.cpu_minutes for run in own)
        last = max((run.date for run in own), default="never")
        files = len(read_corpus(name))
        lines.append(f"| `{name}` | {executions:,} | {minutes:.0f} | {cpu_minutes:.0f} | {last} | {files} files |")
    return "\n".join(lines) + "\n"
