"""Commands run in the test's process, with anything for an argument."""

from __future__ import annotations

from pathlib import Path

import click

from infermesh.testing.commands import runner_of


@click.command()
@click.argument("path")
@click.option("--count", type=int)
def _say(path: str, count: int) -> None:
    click.echo(f"{path} {count}")
    click.echo("wrong", err=True)
    raise click.exceptions.Exit(3)


def test_words_go_in_and_streams_and_code_come_out_apart() -> None:
    result = runner_of(_say)(Path("a/b"), "--count", 3)
    assert (result.exit_code, result.stdout, result.stderr) == (3, "a/b 3\n", "wrong\n")
