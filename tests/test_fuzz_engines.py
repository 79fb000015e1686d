"""The engines of fuzz/, on toy targets: they find what is planted, repeat themselves, and shorten what they found."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Hashable, Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.append(str(ROOT))  # As in test_fuzz.py.

from fuzz import corpus, ledger  # noqa: E402
from fuzz.guided import guided_is_there, run_guided  # noqa: E402
from fuzz.plain import run_plain  # noqa: E402
from fuzz.progress import Finding, Progress  # noqa: E402
from fuzz.target import Target, Violation, agreed, judge_measured, load_target, ways_to_feed  # noqa: E402
from wire.sse import usage_tokens  # noqa: E402

SCRIPT = ROOT / "scripts" / "fuzz"


def planted(data: bytes) -> Hashable:
    usage_tokens(data)
    if b"\xff" in data and data[:1] == b"a":
        raise Violation("planted")
    return data[:1] == b"a"


TOY = Target(check=planted, seeds=lambda: [b"hello"], covers=("wire.sse",), words=(b"a", b"\xff"))


def test_a_planted_fault_is_found_shortened_and_found_again_by_the_same_seed() -> None:
    found = []
    for _ in range(2):
        last = list(run_plain(TOY, [b"hello"], seed=5, seconds=60.0, executions_max=20_000))[-1]
        assert last.finding is not None
        found.append((last.finding.data, last.executions))
    assert found[0] == found[1]
    error = corpus.failure_of(planted, found[0][0])
    assert isinstance(error, Violation)
    assert corpus.shrunk(TOY, found[0][0], error) == b"a\xff"


def test_an_input_is_fed_whole_split_and_byte_by_byte_the_same_way_each_time() -> None:
    ways = ways_to_feed(b"0123456789")
    assert [way for way, _ in ways] == ["whole", "split", "byte by byte"]
    assert all(b"".join(pieces) == b"0123456789" for _, pieces in ways)
    assert 2 <= len(ways[1][1]) <= 8
    assert ways == ways_to_feed(b"0123456789")
    assert ways_to_feed(b"")[2] == ("byte by byte", [])


def test_an_outcome_that_depends_on_the_cut_is_a_violation() -> None:
    def pieces_seen(pieces: Sequence[bytes]) -> int:
        return len(pieces)

    with pytest.raises(Violation, match=r"byte by byte|split"):
        agreed(b"0123456789", pieces_seen)


def test_too_much_memory_is_a_violation() -> None:
    greedy = Target(check=lambda data: len(bytes(8 << 20)), seeds=lambda: [b""], covers=("wire.sse",))
    with pytest.raises(Violation, match="bytes allocated"):
        judge_measured(greedy, b"x")


def test_a_minimized_corpus_keeps_every_outcome_and_prefers_what_it_has() -> None:
    inputs = [b"xx", b"x", b"a", b"aa", b'"usage"', b'"usage" "prompt_tokens": 1']
    kept = corpus.minimized(TOY, inputs)
    assert {b"x", b"a"} <= set(kept)
    assert b"xx" not in kept
    assert corpus.minimized(TOY, [*inputs, b""], kept) == kept
    assert corpus.minimized(TOY, [b"a\xff", b"b"]) == [b"b"]  # What fails is not the corpus' to keep.


def test_a_corpus_is_written_as_exactly_these_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "CORPORA", tmp_path)
    corpus.write_corpus("toy", [b"a", b"b"])
    corpus.write_corpus("toy", [b"b", b"cc"])
    assert corpus.read_corpus("toy") == [b"b", b"cc"]
    assert len(list((tmp_path / "toy").iterdir())) == 2


def test_the_ledger_sums_runs_by_target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "FILE", tmp_path / "ledger.jsonl")
    assert "| `sse` | 0 | 0 | 0 | never |" in ledger.table(["sse"])
    for finding in (None, Finding(b"", "ValueError: x\ny")):
        ledger.note(
            "sse",
            "plain",
            Progress(executions=500, seconds=90.0, cpu_s=60.0, coverage=1, corpus_len=1, last=True, finding=finding),
        )
    assert "| `sse` | 1,000 | 3 | 2 | 2" in ledger.table(["sse"])


@pytest.mark.slow
@pytest.mark.skipif(not guided_is_there(), reason="atheris is not installed")
def test_the_guided_engine_runs_a_target_and_gives_back_what_it_found() -> None:
    inputs = [b'{"usage":{"prompt_tokens":1}}']
    last = list(run_guided("sse", load_target("sse"), inputs, seed=1, seconds=1.0))[-1]
    assert last.finding is None
    assert last.executions > 100
    assert last.coverage > 0
    assert len(inputs) > 1


def run_script(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([SCRIPT, *arguments], capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.slow
def test_the_script_lists_targets_refuses_unknown_ones_and_replays() -> None:
    listed = run_script("--list")
    assert listed.returncode == 0
    assert "sse " in listed.stdout
    unknown = run_script("no-such-target", "1")
    assert unknown.returncode == 2
    assert "scripts/fuzz --list" in unknown.stderr
    kept = sorted((corpus.CORPORA / "sse").iterdir())[0]
    replayed = run_script("--replay", str(kept))
    assert replayed.returncode == 0
    assert "passes (sse" in replayed.stdout
    smoke = run_script("sse", "--smoke")
    assert smoke.returncode == 0, smoke.stderr
    assert "executions" in smoke.stderr
