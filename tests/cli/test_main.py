"""The top of the command line: every noun loads, help costs no imports, codes are those of the contract."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version

import click
import pytest

from infermesh.cli.main import NOUNS, main
from infermesh.testing.commands import RunCommand


def _commands(group: click.Group, path: str) -> Iterator[tuple[str, click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None, f"{path} {name} is not there"
        if isinstance(command, click.Group):
            yield from _commands(command, f"{path} {name}")
        else:
            yield f"{path} {name}", command


VERBS = dict(_commands(main, "mesh"))


@pytest.mark.parametrize("noun", NOUNS)
def test_the_line_in_the_top_help_is_the_one_of_the_command_itself(noun: str) -> None:
    command = main.get_command(click.Context(main), noun)
    assert command is not None
    assert command.get_short_help_str(200) == NOUNS[noun][1]


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_takes_json_and_shows_examples(verb: str) -> None:
    command = VERBS[verb]
    options = {option for parameter in command.params for option in parameter.opts}
    assert "--json" in options
    shown = command.get_help(click.Context(command, info_name=verb))
    assert "Examples:" in shown, f"{verb} --help has no examples"
    assert f"{verb} " in shown.partition("Examples:")[2] or f"{verb}\n" in shown.partition("Examples:")[2]


def test_help_and_version_are_shown(mesh: RunCommand) -> None:
    shown = mesh("--help")
    assert shown.exit_code == 0
    assert all(f"  {noun} " in shown.stdout for noun in NOUNS)
    assert mesh("--version").stdout.split() == ["mesh,", "version", version("infermesh")]


def test_an_unknown_noun_and_an_unknown_option_are_wrong_usage(mesh: RunCommand) -> None:
    for arguments in (("nodez",), ("nodes", "--colour"), ("score",), ("explain",), ("bench", "replay")):
        result = mesh(*arguments)
        assert (result.exit_code, result.stdout) == (2, ""), arguments
        assert "Error:" in result.stderr


def test_help_imports_no_command() -> None:
    program = (
        "import sys, contextlib, io\n"
        "from infermesh.cli.main import main\n"
        "with contextlib.redirect_stdout(io.StringIO()):\n"
        "    main(['--help'], standalone_mode=False)\n"
        "print([name for name in ('trio', 'rich', 'cryptography', 'infermesh.cli.demo') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"
