"""`mesh score MODEL`: what the asked router predicts for a request, target by target, and why."""

from __future__ import annotations

import click
import msgspec

from infermesh.cli.admin_client import admin_option, ask, path_of
from infermesh.cli.admin_shapes import ModelsPage, ScorePage
from infermesh.cli.candidates import LEGEND, candidates_table, excluded_lines
from infermesh.cli.output import json_option, show, show_json

_EXAMPLES = """\b
Examples:
  mesh score emulated-8b
  mesh score emulated-8b --prompt-tokens 8000 --output-tokens 200
  mesh score emulated-8b --json
"""

_TOKENS_MAX = 10_000_000


@click.command(short_help="Predicted milliseconds per target, and why.", epilog=_EXAMPLES)
@click.argument("model")
@click.option(
    "--prompt-tokens",
    type=click.IntRange(0, _TOKENS_MAX),
    default=0,
    metavar="N",
    help="Length of the prompt, none of it cached. Left out: the daemon's own default.",
)
@click.option(
    "--output-tokens",
    type=click.IntRange(0, _TOKENS_MAX),
    default=0,
    metavar="N",
    help="Tokens to generate. Left out: what the router measured.",
)
@admin_option
@json_option
def score(model: str, prompt_tokens: int, output_tokens: int, admin: str, *, as_json: bool) -> None:
    """Score every target of MODEL as if a request came now: best first, in predicted milliseconds.

    Each prediction is shown with its parts: network, queue, prefill, decode, penalties. Nothing is sent to any target.
    """
    path = path_of("v1", "score", model=model, prompt_tokens=prompt_tokens, output_tokens=output_tokens)
    page, body = ask(admin, path, ScorePage)
    if as_json:
        show_json(msgspec.Raw(body))
        return
    emulated = any(row.emulated for row in ask(admin, "/v1/models", ModelsPage)[0].models if row.model == page.model)
    show(f"{page.model}{' (emulated)' if emulated else ''}, policy {page.policy}", "")
    if page.candidates:
        show(candidates_table(page.candidates))
    else:
        show("no target can be chosen now")
    show(*excluded_lines(page.excluded), "", LEGEND)
