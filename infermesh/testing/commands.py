"""Run a click command inside the test's process and look at what it printed and how it ended."""

from __future__ import annotations

from collections.abc import Callable

import click
from click.testing import CliRunner, Result

RunCommand = Callable[..., Result]


def runner_of(command: click.Command) -> RunCommand:
    """A function that runs `command` with its arguments, whatever their type, as words."""

    def run(*arguments: object) -> Result:
        return CliRunner().invoke(command, [str(argument) for argument in arguments])

    return run
