"""Run Autobahn's fuzzing client against our echo server and print what became of its cases, section by section.

Usage: python -m tests.interop.autobahn --suite-python PATH [--keep-windows] [--cases PATTERN]...

`scripts/interop-autobahn` installs the suite and calls this. Exit 1 when a case has failed; what is not strict, and
what the suite itself cannot judge, is listed and is no failure.
"""

from __future__ import annotations

import argparse
import collections
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SECTIONS = {
    "1": "framing",
    "2": "pings and pongs",
    "3": "reserved bits",
    "4": "opcodes",
    "5": "fragmentation",
    "6": "UTF-8",
    "7": "close",
    "9": "limits and performance",
    "10": "auto-fragmentation",
    "12": "compression, sizes",
    "13": "compression, parameters",
}
# INFORMATIONAL: the suite only reports. UNIMPLEMENTED: we declined what the case wanted to test.
BAD = frozenset({"FAILED", "WRONG CODE", "UNCLEAN", "FAILED BY CLIENT", "MISSING"})


@contextmanager
def echo_server(*, keep_windows: bool) -> Iterator[str]:
    command = [sys.executable, "-m", "tests.interop.websocket_echo"] + (["--keep-windows"] if keep_windows else [])
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().split()[-1]
        finally:
            process.terminate()


def run(suite_python: str, url: str, cases: list[str], folder: Path) -> dict[str, dict[str, str]]:
    """The suite's verdicts by case: of its behaviour and of how it was closed."""
    spec = {
        "outdir": str(folder / "report"),
        "servers": [{"agent": "infermesh", "url": url, "options": {"version": 18}}],
        "cases": cases,
        "exclude-cases": [],
        "exclude-agent-cases": {},
    }
    file = folder / "spec.json"
    file.write_text(json.dumps(spec), "utf-8")
    command = [suite_python, "-m", "autobahntestsuite.wstest", "--mode", "fuzzingclient", "--spec", str(file)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    index = folder / "report" / "index.json"
    if not index.exists():
        raise SystemExit(f"the suite wrote no report; it said:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    found: dict[str, dict[str, str]] = json.loads(index.read_text("utf-8"))["infermesh"]
    return found


def report(verdicts: dict[str, dict[str, str]]) -> int:
    counts: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    remarkable: list[str] = []
    failed = 0
    for case, verdict in sorted(verdicts.items(), key=lambda item: [int(part) for part in item[0].split(".")]):
        behaviour, closed = verdict["behavior"], verdict["behaviorClose"]
        counts[case.split(".", maxsplit=1)[0]][behaviour] += 1
        if behaviour in BAD or closed in BAD:
            failed += 1
        if behaviour != "OK" or closed not in ("OK", "INFORMATIONAL"):
            remarkable.append(f"  {case}: {behaviour}, close {closed}")
    for section in sorted(counts, key=int):
        numbers = ", ".join(f"{count} {name}" for name, count in sorted(counts[section].items()))
        print(f"{section:>3} {SECTIONS.get(section, ''):<24} {numbers}")
    print(f"    {'all':<24} {len(verdicts)} cases, {failed} failed")
    if remarkable:
        print("not simply OK:")
        print("\n".join(remarkable))
    return 1 if failed else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--suite-python", required=True)
    parser.add_argument("--keep-windows", action="store_true")
    parser.add_argument("--cases", action="append")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, echo_server(keep_windows=arguments.keep_windows) as url:
        return report(run(arguments.suite_python, url, arguments.cases or ["*"], Path(folder)))


if __name__ == "__main__":
    sys.exit(main())
