"""The engine that looks into the decoders: atheris, that is libFuzzer with coverage of Python code.

It runs in a process of its own (`fuzz.guided_child`); this file starts it, reads its lines, and ends it.
"""

from __future__ import annotations

import importlib.util
import os
import re
import resource
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from pathlib import Path

from fuzz.corpus import digest
from fuzz.progress import Finding, Progress
from fuzz.target import Target

_STATUS = re.compile(rb"^#\d+\s.*?cov: (\d+)", re.MULTILINE)
_INPUT_TIMEOUT_S = 30
_RSS_MB_MAX = 1536
_TOLD_EVERY_S = 1.0


def guided_is_there() -> bool:
    return importlib.util.find_spec("atheris") is not None


def run_guided(
    name: str, target: Target, inputs: list[bytes], *, seed: int, seconds: float
) -> Generator[Progress, None, None]:
    """Like `run_plain`. `inputs` is extended by what was found; closing the iterator ends the process."""
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        work = Path(folder)
        corpus = work / "corpus"
        corpus.mkdir()
        for data in inputs:
            (corpus / digest(data)).write_bytes(data)
        (work / "words").write_text("".join(f'"{_quoted(word)}"\n' for word in target.words), "ascii")
        yield from _run(name, target, work, seed=seed, seconds=seconds)
        known = set(inputs)
        inputs += [data for file in sorted(corpus.iterdir()) if (data := file.read_bytes()) not in known]


def _run(name: str, target: Target, work: Path, *, seed: int, seconds: float) -> Generator[Progress, None, None]:
    status_fd, child_fd = os.pipe()
    corpus, log = work / "corpus", work / "log"
    flags = [
        str(corpus),
        f"-max_total_time={max(1, round(seconds))}",
        f"-max_len={target.input_bytes_max}",
        f"-seed={seed or 1}",
        f"-timeout={_INPUT_TIMEOUT_S}",
        f"-rss_limit_mb={_RSS_MB_MAX}",
        f"-artifact_prefix={work}/",
        f"-dict={work / 'words'}",
    ]
    command = [sys.executable, "-m", "fuzz.guided_child", name, str(child_fd), *flags]
    began = time.monotonic()
    cpu_before_s = _children_cpu_s()
    executions = 0
    with log.open("wb") as out:
        # A session of its own: Ctrl-C is for us, who then end it.
        child = subprocess.Popen(  # noqa: S603 - our own module.
            command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            pass_fds=(child_fd,),
            start_new_session=True,
            cwd=Path(__file__).resolve().parents[1],
        )
    os.close(child_fd)
    try:
        while True:
            executions = _latest(status_fd, executions)
            ended = child.poll() is not None
            text = log.read_bytes()
            seen = _STATUS.findall(text)
            if ended:
                executions = _total(text) or executions
            yield Progress(
                executions=executions,
                seconds=time.monotonic() - began,
                coverage=int(seen[-1]) if seen else 0,
                corpus_len=sum(1 for _ in corpus.iterdir()),
                cpu_s=_children_cpu_s() - cpu_before_s,
                last=ended,
                finding=_finding(work, text, child.returncode) if ended and child.returncode else None,
            )
            if ended:
                return
    finally:
        if child.poll() is None:
            child.kill()
        child.wait()
        os.close(status_fd)


def _children_cpu_s() -> float:
    """Of all processes of ours that have ended and been waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _latest(status_fd: int, executions: int) -> int:
    """The newest count, waited for at most a second. A closed pipe is readable at once."""
    if select.select([status_fd], [], [], _TOLD_EVERY_S)[0]:
        lines = os.read(status_fd, 4096).split()
        if lines:
            return int(lines[-1])
    return executions


def _total(log: bytes) -> int:
    found = re.findall(rb"^(?:#|Done )(\d+)", log, re.MULTILINE)
    return int(found[-1]) if found else 0


def _finding(work: Path, log: bytes, code: int) -> Finding:
    text = log.decode("utf-8", "replace")
    files = [file for file in work.iterdir() if file.name.startswith(("crash-", "timeout-", "oom-", "slow-unit-"))]
    if not files:
        raise RuntimeError(f"the fuzzing process ended with {code} and left no input:\n{text[-3000:]}")
    marks = re.findall(r"Uncaught Python exception: ===\n(.*)", text)
    return Finding(files[0].read_bytes(), marks[-1] if marks else files[0].name.partition("-")[0])


def _quoted(word: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in word)
