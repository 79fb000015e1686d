"""What a demo shows while it runs."""

from __future__ import annotations

import json
import shlex

import pytest

from infermesh.cli.admin_shapes import HedgeTotals, NodeTotals, SummaryPage
from infermesh.cli.demo_view import DemoView, greeting, load_line
from infermesh.cli.fleet.plan import plan_fleet, ports_needed
from infermesh.cli.replay.ledger import Ledger, Status

PLAN = plan_fleet(2, ports=range(9_000, 9_000 + ports_needed(2)), speed=2.0)


def test_the_greeting_says_emulated_and_has_a_command_that_a_shell_understands() -> None:
    lines = greeting(PLAN)
    assert lines[0] == "engines   emulated: gpu-a (h100 x2), gpu-b (a100 x2)"
    assert max(map(len, lines)) < 80
    words = shlex.split("\n".join(lines[-3:]))[1:]
    assert words[:3] == ["curl", "--no-buffer", "http://127.0.0.1:9000/v1/completions"]
    assert json.loads(words[-1])["stream"] is True


def test_a_line_holds_the_load_and_the_choices() -> None:
    ledger = Ledger()
    for number in range(3):
        ledger.first_token(ledger.open(number=number, at_s=0.0, prompt_tokens=1), 0.2)
    ledger.settle(ledger.passages[0], Status.COMPLETED, at_s=1.0)
    totals = SummaryPage(
        per_node={"gpu-a": NodeTotals(chosen=2), "gpu-b": NodeTotals(chosen=1)}, hedges=HedgeTotals(fired=2, won=1)
    )
    assert load_line(ledger, totals) == (
        "requests 3  in flight 2  completed 1  failed 0  rejected 0  cancelled 0  TTFT ms p50 200 p99 200  "
        "chosen gpu-a 2  gpu-b 1  hedges 2 (1 won)  cancelled upstream 0"
    )


@pytest.mark.parametrize("quiet", [False, True])
def test_steps_go_to_stderr_when_stdout_is_for_a_document(quiet: bool, capsys: pytest.CaptureFixture[str]) -> None:
    DemoView(quiet=quiet).tell("a step")
    streams = capsys.readouterr()
    assert (streams.err if quiet else streams.out) == "a step\n"
    assert (streams.out if quiet else streams.err) == ""
