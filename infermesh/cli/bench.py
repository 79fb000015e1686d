"""`mesh bench`: measure a mesh, or any server that speaks OpenAI's API. `replay` plays a recorded trace at it."""

from __future__ import annotations

import sys
from pathlib import Path

import click
import msgspec
import trio
from rich.console import RenderableType
from rich.text import Text

from infermesh.cli.exits import CommandFailed
from infermesh.cli.output import (
    Column,
    coloured,
    in_ms,
    in_percent,
    in_seconds,
    json_option,
    make_table,
    show,
    show_json,
)
from infermesh.cli.replay.ledger import ConservationError
from infermesh.cli.replay.plan import PlanOptions, plan_arrivals
from infermesh.cli.replay.report import ReplayReport, Spread, make_report, warnings_of
from infermesh.cli.replay.run import RunOptions, RunResult
from infermesh.cli.replay.run import replay as run_replay
from infermesh.cli.trace_file import read_trace

_REPLAY_EXAMPLES = """\b
Examples:
  mesh bench replay --trace conversation.jsonl --target http://127.0.0.1:8080 --requests 500
  mesh bench replay --trace azure.csv --speed 4 --seconds 60 --target http://edge-1:8080 --json
  On a small machine, prompts and answers a quarter as long:
    mesh bench replay --trace conversation.jsonl --prompt-scale 0.25 --max-output 64 \\
      --target http://127.0.0.1:8080
"""

_STATUS_STYLES = {"failed": "red", "client": "yellow", "rejected": "yellow"}


@click.group(short_help="Load a mesh or any OpenAI server, and measure.")
def bench() -> None:
    """Measure a mesh, or any server that speaks OpenAI's API."""


class TraceNote(msgspec.Struct, frozen=True, kw_only=True):
    """Which trace was played, and what was changed of it."""

    file: str
    requests: int
    planned: int
    speed: float
    prompt_scale: float
    output_tokens_max: int
    seed: int


@bench.command(short_help="Play a recorded trace, open loop.", epilog=_REPLAY_EXAMPLES)
@click.option(
    "--trace",
    "file",
    type=click.Path(dir_okay=False, path_type=Path),
    required=True,
    help="Recorded requests: Azure's layout (.csv) or Mooncake's (.jsonl).",
)
@click.option("--target", metavar="URL", required=True, help="Base address of the server, without /v1.")
@click.option("--speed", type=click.FloatRange(0.001, 10_000), default=1.0, show_default=True, help="Times faster.")
@click.option("--model", default="", help="Model to ask for. Left out: the only one that the server lists.")
@click.option("--requests", "requests_max", type=click.IntRange(1), metavar="N", help="The first N requests only.")
@click.option("--seconds", "span_s_max", type=click.FloatRange(0.1), metavar="S", help="Send for S seconds only.")
@click.option("--max-output", type=click.IntRange(1), metavar="N", help="Ask for at most N tokens an answer.")
@click.option(
    "--prompt-scale",
    type=click.FloatRange(0.001, 10.0),
    default=1.0,
    show_default=True,
    help="Factor on the length of prompts and of the prefixes that they share.",
)
@click.option("--slo-ttft-ms", type=click.FloatRange(1.0), default=2_000.0, show_default=True, help="For goodput.")
@click.option(
    "--slo-itl-ms", type=click.FloatRange(0.1), default=100.0, show_default=True, help="For goodput: the mean gap."
)
@click.option("--chat", is_flag=True, help="Send chats in place of completions.")
@click.option("--header", "headers", metavar="'NAME: VALUE'", multiple=True, help="A header of every request.")
@click.option("--seed", type=int, default=0, show_default=True, help="Another seed, other text: no prefix is known.")
@click.option(
    "--timeout", "timeout_s", type=click.FloatRange(1.0), default=600.0, show_default=True, help="Seconds per request."
)
@json_option
def replay(
    file: Path,
    target: str,
    speed: float,
    model: str,
    requests_max: int | None,
    span_s_max: float | None,
    max_output: int | None,
    prompt_scale: float,
    slo_ttft_ms: float,
    slo_itl_ms: float,
    headers: tuple[str, ...],
    seed: int,
    timeout_s: float,
    *,
    chat: bool,
    as_json: bool,
) -> None:
    """Play a trace at a server: requests go out at their recorded moments, whatever the server does.

    Times count from the moment a request was due, so a server that stalls is not spared the requests that it
    held up. Equal block ids of a Mooncake trace become equal text, so prefixes are shared as they were recorded.
    Every request is accounted for: completed, rejected (429, 503), failed, cancelled, or this client's own error.
    Ctrl-C stops early and reports what was done.
    """
    trace = read_trace(file)
    plan = plan_arrivals(
        trace,
        PlanOptions(
            speed=speed,
            requests_max=requests_max or 0,
            span_s_max=span_s_max or 0.0,
            output_tokens_max=max_output or 0,
        ),
    )
    options = RunOptions(
        target=target,
        model=model,
        chat=chat,
        headers=tuple(map(_header, headers)),
        prompt_scale=prompt_scale,
        seed=seed,
        timeout_s=timeout_s,
    )
    result = trio.run(lambda: run_replay(plan, options, progress=sys.stderr.isatty()))
    try:
        report = make_report(result.ledger, sent=result.sent, ttft_slo_ms=slo_ttft_ms, itl_slo_ms=slo_itl_ms)
    except ConservationError as error:
        raise CommandFailed(f"{error}; no figure is shown, please report this as a defect") from error
    note = TraceNote(
        file=file.name,
        requests=len(trace),
        planned=len(plan),
        speed=speed,
        prompt_scale=prompt_scale,
        output_tokens_max=max_output or 0,
        seed=seed,
    )
    if as_json:
        show_json(_document(note, options, result, report))
    else:
        show(*_text(note, options, result, report))
        for warning in warnings_of(report):
            click.echo(f"Warning: {warning}", err=True)
    if result.interrupted or (report.arrived and not report.completed):
        raise click.exceptions.Exit(1)


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    name, value = name.strip(), value.strip()
    if not colon or not name.isascii() or not name.isprintable() or " " in name or not value.isprintable():
        raise click.BadParameter(f"{text!r} is no header; write 'name: value'", param_hint="--header")
    return name.lower(), value


def _document(note: TraceNote, options: RunOptions, result: RunResult, report: ReplayReport) -> dict[str, object]:
    return {
        "trace": note,
        "target": options.target,
        "model": result.model,
        "emulated": result.emulated,
        "interrupted": result.interrupted,
        "connections_made": result.connections_made,
        "warnings": warnings_of(report),
        **msgspec.to_builtins(report),
    }


_FIGURE_COLUMNS = (
    Column("MILLISECONDS"),
    Column("P50", right=True),
    Column("P90", right=True),
    Column("P99", right=True),
    Column("MEAN", right=True),
    Column("MAX", right=True),
)


def _text(note: TraceNote, options: RunOptions, result: RunResult, report: ReplayReport) -> list[RenderableType]:
    parts: list[RenderableType] = [
        _line("trace", _trace_words(note)),
        _line("target", f"{options.target}, model {result.model}{' (emulated)' if result.emulated else ''}"),
        _line(
            "sent",
            f"{report.arrived:,} in {in_seconds(report.duration_s)}, {report.offered_per_s:.1f} a second"
            + (" (stopped early)" if result.interrupted else ""),
        ),
        "",
    ]
    for name, number in (
        ("completed", report.completed),
        ("rejected", report.rejected),
        ("failed", report.failed),
        ("cancelled", report.cancelled),
        ("client errors", report.client_errors),
    ):
        parts.append(_count_line(name, number, report))
    share = in_percent(report.completion_rate)
    parts += [
        "",
        make_table(
            _FIGURE_COLUMNS,
            [
                _figures("time to first token", report.ttft_ms),
                _figures("between two tokens", report.itl_ms),
                _figures("whole answer", report.total_ms),
                _figures("sent late by", report.send_lag_ms),
            ],
        ),
        Text(f"of the {share} that completed; from the moment each was due", style="dim"),
        "",
        _line(
            "goodput",
            f"{in_percent(report.goodput.share)} of all, {report.goodput.per_s:.1f} a second: first token within "
            f"{report.goodput.ttft_slo_ms:,.0f} ms, mean gap within {report.goodput.itl_slo_ms:g} ms",
        ),
        _line(
            "tokens",
            f"{report.prompt_tokens:,} in, {report.output_tokens:,} out, {report.output_tokens_per_s:,.0f} a second",
        ),
    ]
    if report.nodes:
        parts.append(_line("nodes", "  ".join(f"{node} {count:,}" for node, count in report.nodes.items())))
    if report.retry_after_s is not None:
        parts.append(_line("retry-after", f"p50 {report.retry_after_s.p50:g} s, max {report.retry_after_s.max:g} s"))
    return parts


def _trace_words(note: TraceNote) -> str:
    words = f"{note.file}: {note.planned:,} of {note.requests:,} requests, {note.speed:g} times as fast"
    if note.prompt_scale != 1.0:
        words += f", prompts {note.prompt_scale:g} times as long"
    if note.output_tokens_max:
        words += f", answers up to {note.output_tokens_max:,} tokens"
    return words


def _line(name: str, text: str) -> Text:
    return Text(f"{name:<14}{text}")


def _count_line(name: str, number: int, report: ReplayReport) -> Text:
    causes = report.causes.get(name.removesuffix("s").replace(" ", "_"), {})
    share = in_percent(number / report.arrived) if report.arrived else "0 %"
    why = ", ".join(f"{cause} {count:,}" for cause, count in causes.items())
    text = f"{name:<14}{number:>8,}  {share:>7}" + (f"  {why}" if number and why else "")
    return coloured(text, _STATUS_STYLES) if number else Text(text)


def _figures(name: str, spread: Spread) -> list[str]:
    return [name, *map(in_ms, (spread.p50, spread.p90, spread.p99, spread.mean, spread.max))]
