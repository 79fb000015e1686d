"""`mesh score MODEL`: what the asked router predicts for a request, target by target, and why.

Asked is a daemon's admin port, or with `--via` the mesh port of any router, which answers whoever has an identity.
"""

from __future__ import annotations

from pathlib import Path

import click
import msgspec
from click.core import ParameterSource

from infermesh.cli.admin_client import admin_option, ask, path_of
from infermesh.cli.admin_shapes import ModelsPage, ScorePage
from infermesh.cli.candidates import LEGEND, candidates_table, excluded_lines
from infermesh.cli.mesh_client import identity_option, via_option
from infermesh.cli.output import json_option, show, show_json
from infermesh.cli.score_via import score_via
from infermesh.core.model.nodes import Address

_EXAMPLES = """\b
Examples:
  mesh score emulated-8b
  mesh score emulated-8b --prompt-tokens 8000 --output-tokens 200
  mesh score emulated-8b --json
Without a daemon beside you, over the mesh port of a router:
  mesh score emulated-8b --via 10.0.0.5:7443 --identity mesh/edge
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
@via_option
@identity_option
@json_option
@click.pass_context
def score(
    context: click.Context,
    model: str,
    prompt_tokens: int,
    output_tokens: int,
    admin: str,
    via: Address | None,
    identity: Path | None,
    *,
    as_json: bool,
) -> None:
    """Score every target of MODEL as if a request came now: best first, in predicted milliseconds.

    Each prediction is shown with its parts: network, queue, prefill, decode, penalties. Nothing is sent to any target.
    """
    if via is None and identity is not None:
        raise click.UsageError("--identity says who asks a mesh port: add --via HOST:PORT")
    if via is not None:
        if identity is None:
            raise click.UsageError("a mesh port answers nodes only: add --identity DIR, the folder of one of its nodes")
        if context.get_parameter_source("admin") is ParameterSource.COMMANDLINE:
            raise click.UsageError("--admin and --via are two ways to ask: give one")
        body = score_via(via, identity, model, prompt_tokens, output_tokens)
        page, emulated = msgspec.json.decode(body, type=ScorePage), False
    else:
        path = path_of("v1", "score", model=model, prompt_tokens=prompt_tokens, output_tokens=output_tokens)
        page, body = ask(admin, path, ScorePage)
        emulated = not as_json and _is_emulated(admin, page.model)
    if as_json:
        show_json(msgspec.Raw(body))
        return
    show(f"{page.model}{' (emulated)' if emulated else ''}, policy {page.policy}", "")
    if page.candidates:
        show(candidates_table(page.candidates))
    else:
        show("no target can be chosen now")
    show(*excluded_lines(page.excluded), "", LEGEND)


def _is_emulated(admin: str, model: str) -> bool:
    return any(row.emulated for row in ask(admin, "/v1/models", ModelsPage)[0].models if row.model == model)
