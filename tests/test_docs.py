"""The docs run: links lead somewhere, commands and options exist, examples are accepted, marked blocks are executed.

A block under `<!-- run -->` is executed by bash in an empty folder. In every other shell block each `mesh`, `meshd` and
`scripts/...` command is checked against the program it names. TOML blocks are loaded as node configs, JSON and
Python blocks are parsed.
"""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import pytest

from infermesh.cli.main import main as mesh
from infermesh.node.config import load_config
from infermesh.node.main import main as meshd

ROOT = Path(__file__).resolve().parents[1]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
RUN = "<!-- run -->"
SHELL = frozenset({"sh", "bash", "console"})
# What ends one command and begins another.
SEPARATORS = frozenset({"|", "||", "&", "&&", ";", ">", ">>", "<", "(", ")"})


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block of a page."""

    page: str
    line: int
    language: str
    run: bool
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks_of(page: str, text: str) -> Iterator[Block]:
    lines = text.splitlines()
    start: int | None = None
    for number, line in enumerate(lines):
        if not line.startswith("```"):
            continue
        if start is None:
            start = number
            continue
        above = lines[start - 1].strip() if start else ""
        body = "\n".join(lines[start + 1 : number]) + "\n"
        yield Block(page, start + 1, lines[start].removeprefix("```").strip(), above == RUN, body)
        start = None


def commands_of(shell: str) -> Iterator[list[str]]:
    """Every simple command of a shell block, as words; comments and redirections are left out."""
    for line in shell.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        command: list[str] = []
        for word in lexer:
            if word in SEPARATORS:
                if command:
                    yield command
                command = []
            else:
                command.append(word)
        if command:
            yield command


def command_problem(words: list[str]) -> str | None:
    """Why a command of the docs would be refused as wrongly used; None when it is fine or not one of ours."""
    match Path(words[0]).name:
        case "mesh":
            return click_problem(mesh, words[1:])
        case "meshd":
            return click_problem(meshd, words[1:])
        case name if words[0].startswith(("scripts/", ".ci/")):
            exists = os.access(ROOT / words[0], os.X_OK)
            return None if exists else f"{name}: no such script"
        case _:
            return None


def click_problem(command: click.Command, words: list[str]) -> str | None:
    """Parse `words` as click would, down the groups. Files of examples need not exist; values must be allowed."""
    context = click.Context(command, info_name=command.name)
    try:
        while isinstance(command, click.Group):
            _, words, _ = command.make_parser(context).parse_args(args=list(words))
            if not words:
                return None
            name, found, words = command.resolve_command(context, words)
            assert found is not None
            command, context = found, click.Context(found, info_name=name, parent=context)
        given, rest, _ = command.make_parser(context).parse_args(args=list(words))
    except click.UsageError as error:
        return error.format_message()
    if rest:
        return f"{context.command_path}: does not take {rest}"
    missing = [
        parameter.name
        for parameter in command.params
        if parameter.required and (parameter.name not in given or parameter.value_is_missing(given[parameter.name]))
    ]
    return f"{context.command_path}: needs {missing}" if missing else None


def all_blocks() -> list[Block]:
    pages = [(file.relative_to(ROOT).as_posix(), file.read_text("utf-8")) for file in PAGES]
    return [block for page, text in pages for block in blocks_of(page, text)]


BLOCKS = all_blocks()


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_what_a_block_shows_is_accepted(block: Block, tmp_path: Path) -> None:
    if block.language in SHELL:
        problems = [problem for words in commands_of(block.text) if (problem := command_problem(words))]
        assert not problems, "\n".join(problems)
        return
    match block.language:
        case "toml":
            file = tmp_path / "node.toml"
            file.write_text(block.text, "utf-8")
            load_config(file, {}, {})
        case "json":
            json.loads(block.text)
        case "python":
            ast.parse(block.text)
        case _:
            pass  # Drawings.


@pytest.mark.slow
@pytest.mark.parametrize("block", [block for block in BLOCKS if block.run], ids=str)
def test_a_block_marked_to_run_runs(block: Block, tmp_path: Path) -> None:
    bin_folder = Path(sys.executable).parent
    environment = {"PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}", "HOME": str(tmp_path), "LANG": "C.UTF-8"}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block.text],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"


@pytest.mark.parametrize("file", PAGES, ids=lambda file: file.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(file: Path) -> None:
    text = re.sub(r"```.*?```", "", file.read_text("utf-8"), flags=re.DOTALL)
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        target, _, anchor = link.partition("#")
        if "://" in link:
            continue
        page = (file.parent / target).resolve() if target else file
        text_there = page.read_text("utf-8") if page.is_file() else ""
        if not page.exists() or (anchor and anchor not in anchors_of(text_there)):
            broken.append(link)
    assert not broken


def anchors_of(text: str) -> set[str]:
    titles = re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_the_pages_made_from_code_are_current() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "docs", "--check"], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr


def test_decisions_are_numbered_without_gaps_and_all_listed() -> None:
    folder = ROOT / "docs" / "decisions"
    pages = sorted(file.name for file in folder.glob("[0-9]*.md"))
    assert [page[:5] for page in pages] == [f"{number:04}-" for number in range(1, len(pages) + 1)]
    index = (folder / "README.md").read_text("utf-8")
    assert [page for page in pages if f"]({page})" not in index] == []


def test_change_fragments_are_named_by_issue_and_kind() -> None:
    pattern = re.compile(r"\d{4}\.(added|changed|fixed|removed|security)(\.[a-z0-9-]+)?\.md|README\.md")
    names = [file.name for file in (ROOT / "docs" / "changes").iterdir()]
    assert [name for name in names if not pattern.fullmatch(name)] == []


# --- The checks themselves ---


def test_blocks_are_found_with_their_mark() -> None:
    text = "a\n\n<!-- run -->\n```sh\nmesh init\n```\n\n```toml\n[node]\n```\n"
    assert list(blocks_of("p.md", text)) == [
        Block("p.md", 4, "sh", True, "mesh init\n"),
        Block("p.md", 8, "toml", False, "[node]\n"),
    ]


def test_commands_are_told_apart() -> None:
    shell = "mesh nodes --json | jq . # comment | mesh x\ncurl a \\\n  -d 'b | c' > out\n# mesh y\n"
    assert list(commands_of(shell)) == [["mesh", "nodes", "--json"], ["jq", "."], ["curl", "a", "-d", "b | c"], ["out"]]


@click.group()
def toy() -> None:
    """A command line for the tests below."""


@toy.command()
@click.argument("model")
@click.option("--tokens", type=int)
@click.option("--target", required=True)
def score(model: str, tokens: int, target: str) -> None:
    raise AssertionError("a check of docs never runs a command", model, tokens, target)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("score m --target t --tokens 3", ""),
        ("score m --target t --json", "--json"),
        ("scores m", "scores"),
        ("score m n --target t", "does not take"),
        ("score --target t", "needs ['model']"),
        ("score m", "needs ['target']"),
    ],
)
def test_a_wrong_command_in_the_docs_is_caught(line: str, problem: str) -> None:
    found = click_problem(toy, line.split())
    assert problem in (found or "")
    assert bool(found) == bool(problem)


def test_a_missing_script_is_caught() -> None:
    assert command_problem(["scripts/no-such"]) == "no-such: no such script"
    assert command_problem(["scripts/test", "-k", "x"]) is None
    assert command_problem(["curl", "--anything"]) is None
