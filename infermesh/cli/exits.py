"""How a `mesh` command ends: the exit codes of the contract, and the exceptions that carry them.

The message of each is one sentence: what failed, and what to do. click prints it on stderr, and ends with the
class's code. Wrong usage is click's own UsageError, whose code is 2.
"""

from __future__ import annotations

import enum

import click


class ExitCode(enum.IntEnum):
    """DESIGN section 4; scripts depend on the numbers."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    REFUSED = 3
    NO_QUORUM = 4
    UNREACHABLE = 5


class CommandFailed(click.ClickException):
    """It was tried, and failed."""

    exit_code = ExitCode.FAILED


class Refused(CommandFailed):
    """By policy or authorisation."""

    exit_code = ExitCode.REFUSED


class NoQuorum(CommandFailed):
    """Or no leader."""

    exit_code = ExitCode.NO_QUORUM


class Unreachable(CommandFailed):
    """Nobody answered where the daemon should be."""

    exit_code = ExitCode.UNREACHABLE
