"""The corpus of a target: files in fuzz/corpora/<target>, few and small, that reach all that was ever reached.

Findings lie in fuzz/findings, which git ignores; one that is mended is kept as a test beside the decoder's tests,
and its input joins the corpus.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Iterable
from pathlib import Path

from fuzz.target import Target, judge
from fuzz.trace import EdgeTrace

FOLDER = Path(__file__).resolve().parent
CORPORA = FOLDER / "corpora"
FINDINGS = FOLDER / "findings"
FILES_MAX = 200


def read_corpus(name: str) -> list[bytes]:
    """The kept inputs of a target, the shortest first."""
    folder = CORPORA / name
    found = [file.read_bytes() for file in sorted(folder.glob("*.bin"))] if folder.is_dir() else []
    return sorted(set(found), key=_by_length)


def minimized(target: Target, inputs: Iterable[bytes], kept_before: Iterable[bytes] = ()) -> list[bytes]:
    """Of these inputs a few, short ones first, that together take every branch and every kind of outcome.

    Those `kept_before` have the first choice, so that a corpus in git does not change with every run. An input that
    fails is left out: it is a finding, and not for the corpus to judge.
    """
    trace = EdgeTrace(target.covers)
    seen: set[Hashable] = set()
    kept: list[bytes] = []
    ordered = [*sorted(set(kept_before), key=_by_length), *sorted(set(inputs) - set(kept_before), key=_by_length)]
    for data in ordered:
        if len(data) > target.input_bytes_max:
            continue
        try:
            with trace.recording():
                label = judge(target, data)
        except Exception:  # noqa: BLE001 - see above.
            trace.take()
            continue
        reached: set[Hashable] = {*trace.take(), ("label", label)}
        if not reached <= seen:
            seen |= reached
            kept.append(data)
    return kept[:FILES_MAX]


def _by_length(data: bytes) -> tuple[int, bytes]:
    return len(data), data


def write_corpus(name: str, inputs: Iterable[bytes]) -> None:
    """Make the target's folder hold exactly these inputs, each under a name made of its content."""
    folder = CORPORA / name
    folder.mkdir(parents=True, exist_ok=True)
    wanted = {f"{digest(data)}.bin": data for data in inputs}
    for file in folder.glob("*.bin"):
        if file.name not in wanted:
            file.unlink()
    for file_name, data in wanted.items():
        (folder / file_name).write_bytes(data)


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def keep_finding(name: str, data: bytes) -> Path:
    FINDINGS.mkdir(exist_ok=True)
    file = FINDINGS / f"{name}-{digest(data)}.bin"
    file.write_bytes(data)
    return file


def failure_of(check: Callable[[bytes], Hashable], data: bytes) -> Exception | None:
    try:
        check(data)
    except Exception as error:  # noqa: BLE001 - whatever a decoder lets out is what we look for.
        return error
    return None


def shrunk(target: Target, data: bytes, error: Exception) -> bytes:
    """A shorter input that fails by the same kind of exception at the same place, found by leaving out pieces."""
    wanted = _place(error)
    size = len(data) // 2
    while size:
        at = 0
        while at < len(data):
            shorter = data[:at] + data[at + size :]
            failure = failure_of(target.check, shorter)
            if failure is not None and _place(failure) == wanted:
                data = shorter
            else:
                at += size
        size //= 2
    return data


def _place(error: BaseException) -> tuple[str, str, int]:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = (trace.tb_frame.f_code.co_filename, trace.tb_lineno) if trace is not None else ("", 0)
    return type(error).__name__, *where
