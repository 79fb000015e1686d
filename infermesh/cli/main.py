"""`mesh`: everything that is not the daemon. One file per noun, imported only when its noun is said.

The table below is the whole of the command line's top level. Not here: any work; a verb's options, words and
examples are in its own file.
"""

from __future__ import annotations

import importlib

import click

# The name a person types, the module whose attribute of that name is the command, and its line in `mesh --help`.
# Told here too, so that `mesh --help` and completion import nothing.
NOUNS: dict[str, tuple[str, str]] = {
    "demo": ("infermesh.cli.demo", "A whole mesh on this machine, with emulated engines."),
    "init": ("infermesh.cli.init", "Make a trust domain, its CA and node certificates."),
    "ca": ("infermesh.cli.ca", "Renew and show certificates."),
    "config": ("infermesh.cli.config", "Explain or check a node's config."),
    "nodes": ("infermesh.cli.nodes", "Nodes, their state, and what they serve."),
    "models": ("infermesh.cli.models", "Models of the fleet."),
    "gpus": ("infermesh.cli.gpus", "GPUs, their health and load."),
    "score": ("infermesh.cli.score", "Predicted milliseconds per target, and why."),
    "explain": ("infermesh.cli.explain", "Why a request went where it went."),
    "top": ("infermesh.cli.top", "A live view of the fleet."),
    "bench": ("infermesh.cli.bench", "Load a mesh or any OpenAI server, and measure."),
    "sim": ("infermesh.cli.sim", "Simulate fleets and routing policies."),
}

_EPILOG = """\b
Examples:
  mesh demo
  mesh nodes --admin http://10.0.0.5:9090
  mesh score MODEL --prompt-tokens 4000
\b
Every verb takes --json: one document on stdout and nothing else there.
Exit codes: 0 done, 1 failed, 2 usage, 3 refused by policy or authorisation,
4 no quorum or no leader, 5 unreachable.
"""


class _Nouns(click.Group):
    """A group whose commands live in modules that are imported when they are used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(NOUNS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in NOUNS:
            return None
        command = getattr(importlib.import_module(NOUNS[cmd_name][0]), cmd_name)
        assert isinstance(command, click.Command), f"{NOUNS[cmd_name][0]}.{cmd_name} is not a command"
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in NOUNS.items()])


@click.group(
    name="mesh",
    cls=_Nouns,
    epilog=_EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(package_name="infermesh", prog_name="mesh")
def main() -> None:
    """Start, look at and measure an infermesh. The daemon itself is `meshd`."""


if __name__ == "__main__":
    main(prog_name="mesh")
