"""The part of the style guide that a machine can read: each ban names its replacement, each rule carries its
proof (sources that it must catch, and neighbours that it must let pass).

Not here: what ruff and mypy see already, and the import map (tests/test_layers.py).
"""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

FILE_LINES_MAX = 600
FUNCTION_LINES_MAX = 70
PARAMETERS_MAX = 6
PARAMETERS_WITH_KEYWORD_ONLY_MAX = 10

GENERATED = re.compile(r"^wire/proto/.*_pb2(_grpc)?\.pyi?$")
# Folders of tests that cut across sources, so that no single file is their mirror.
CROSS_CUTTING = ("conversations", "simulations", "interop", "conformance", "bench")
# Where printing is the job.
PRINTING = ("infermesh/cli/", "scripts/", "tests/bench/", "tests/interop/")
# Servers of others that a benchmark runs beside ours, in the loop that they need.
PEER_PROGRAMS = ("tests/bench/grpc/serve_grpcio.py", "tests/bench/grpc/serve_grpclib.py")
SKIPPED_FOLDERS = frozenset({"__pycache__", "build", "dist", "node_modules"})
TEXT_SUFFIXES = frozenset(
    {
        ".py",
        ".pyi",
        ".md",
        ".toml",
        ".txt",
        ".sh",
        ".cfg",
        ".ini",
        ".json",
        ".yaml",
        ".yml",
        ".proto",
        ".conf",
        "",
    }
)


@dataclass(frozen=True, slots=True)
class Source:
    """One file of the repository: its path from the root, and its text."""

    path: str
    text: str

    @property
    def is_python(self) -> bool:
        return self.path.endswith(".py") or self.text.startswith("#!/usr/bin/env python3\n")

    @property
    def is_generated(self) -> bool:
        return GENERATED.match(self.path) is not None

    @property
    def is_shipped(self) -> bool:
        return self.path.startswith(("wire/", "infermesh/"))

    @property
    def nodes(self) -> tuple[ast.AST, ...]:
        return _nodes(self.text)

    def functions(self) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
        for node in self.nodes:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield node


@functools.cache
def _nodes(text: str) -> tuple[ast.AST, ...]:
    return tuple(ast.walk(ast.parse(text)))


Problems = Iterator[tuple[int, str]]
Check = Callable[[Source], Problems]


@dataclass(frozen=True, slots=True)
class Rule:
    check: Check
    catches: Sequence[str]
    allows: Sequence[str]
    path: str  # Where the planted sources pretend to lie.

    @property
    def name(self) -> str:
        return self.check.__name__


PYTHON_RULES: list[Rule] = []
TEXT_RULES: list[Rule] = []


def rule(
    rules: list[Rule], *, catches: Sequence[str], allows: Sequence[str] = (), path: str = "infermesh/net/x.py"
) -> Callable[[Check], Check]:
    def register(check: Check) -> Check:
        rules.append(Rule(check, catches, allows, path))
        return check

    return register


# --- Size and shape ---


@rule(PYTHON_RULES, catches=["x = 1\n" * 601], allows=["x = 1\n" * 600])
def files_are_short(source: Source) -> Problems:
    lines = source.text.count("\n")
    if lines > FILE_LINES_MAX:
        yield FILE_LINES_MAX, f"{lines} lines, {FILE_LINES_MAX} is the wall; split it by noun"


@rule(
    PYTHON_RULES,
    catches=[
        "def f():\n" + "    x = 1\n" * 70,
        "class A:\n    async def f(self):\n" + "        x = 1\n" * 70,
    ],
    allows=["def f():\n" + "    x = 1\n" * 69],
)
def functions_fit_a_screen(source: Source) -> Problems:
    for function in source.functions():
        assert function.end_lineno is not None
        lines = function.end_lineno - function.lineno + 1
        if lines > FUNCTION_LINES_MAX:
            yield (
                function.lineno,
                f"{function.name} has {lines} lines, {FUNCTION_LINES_MAX} is the wall; split it",
            )


@rule(
    PYTHON_RULES,
    catches=["def f(a, b, c, d, e, g, h): ...\n", "def f(a, *, b, c, d, e, g, h, i, j, k, m): ...\n"],
    allows=[
        "def f(self, a, b, c, d, e, g): ...\n",
        "def f(a, *, b, c, d, e, g, h, i, j, k): ...\n",
        "@click.command()\ndef f(a, b, c, d, e, g, h): ...\n",
    ],
)
def functions_take_few_parameters(source: Source) -> Problems:
    for function in source.functions():
        if _decorators(function) & {"command", "group", "option", "argument"}:
            continue  # click calls it by keyword; its parameters are the command's options.
        positional, named = _parameters(function)
        if len(positional) > PARAMETERS_MAX:
            yield (
                function.lineno,
                f"{function.name} takes {len(positional)} parameters; pass an options object",
            )
        elif len(positional) + len(named) > PARAMETERS_WITH_KEYWORD_ONLY_MAX:
            yield function.lineno, f"{function.name} takes over 10 parameters; pass an options object"


@rule(
    PYTHON_RULES,
    catches=["def f(on: bool): ...\n", "class A:\n    def f(self, a: int, on: bool = True): ...\n"],
    allows=["def f(*, on: bool): ...\n", "def test_x(on: bool): ...\n"],
)
def booleans_are_keyword_only(source: Source) -> Problems:
    for function in source.functions():
        if function.name.startswith("test_") or _decorators(function) & {"fixture", "setter"}:
            continue
        for parameter in _parameters(function)[0]:
            if isinstance(parameter.annotation, ast.Name) and parameter.annotation.id == "bool":
                yield function.lineno, f"{function.name}({parameter.arg}: bool); put `*` before it"


def _parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> tuple[list[ast.arg], list[ast.arg]]:
    """(positional, keyword-only), without self and cls."""
    positional = [*function.args.posonlyargs, *function.args.args]
    if positional and positional[0].arg in ("self", "cls"):
        del positional[0]
    return positional, function.args.kwonlyargs


def _decorators(function: ast.FunctionDef | ast.AsyncFunctionDef) -> set[str]:
    targets = [d.func if isinstance(d, ast.Call) else d for d in function.decorator_list]
    return {target.attr if isinstance(target, ast.Attribute) else _dotted(target) for target in targets}


# --- Words ---


@rule(PYTHON_RULES, catches=["import math\n", '"""  """\nimport math\n'], allows=["", '"""Pools."""\nx = 1\n'])
def modules_say_what_they_are(source: Source) -> Problems:
    if not source.is_shipped and not source.path.startswith("tests/bench/"):
        return
    module = source.nodes[0]
    assert isinstance(module, ast.Module)
    if module.body and not (ast.get_docstring(module) or "").strip():
        yield 1, "no module docstring; say what it is, what it is not, and the duties of its caller"


EMPTY_NAMES = re.compile(r"(Manager|Helper|Helpers|Util|Utils|Utility|Handler|Data|Info)$")
EMPTY_MODULES = frozenset({"util", "utils", "helper", "helpers", "common", "misc", "shared"})


@rule(
    PYTHON_RULES,
    catches=[f"class Pool{word}: ...\n" for word in ("Manager", "Helper", "Util", "Handler", "Data", "Info")],
    allows=["class Pool: ...\n", "class DataPlane: ...\n"],
)
def classes_have_names_that_mean_something(source: Source) -> Problems:
    for node in source.nodes:
        if isinstance(node, ast.ClassDef) and EMPTY_NAMES.search(node.name):
            yield node.lineno, f"class {node.name}; name it for what it holds or does"


@rule(PYTHON_RULES, catches=[""], path="infermesh/net/utils.py")
def modules_have_names_that_mean_something(source: Source) -> Problems:
    if EMPTY_MODULES & {Path(source.path).stem, *Path(source.path).parts[:-1]}:
        yield 1, "a module named for nothing in particular; name it for the noun it holds"


UNITLESS = re.compile(r"(^|_)(timeout|delay|interval|duration|latency|backoff|ttl)$")
LONG_UNIT = re.compile(r"_(seconds|secs|sec|millis|milliseconds|msec|micros)$")


@rule(
    PYTHON_RULES,
    catches=[
        "def f(timeout: float): ...\n",
        "class A:\n    retry_delay: int = 3\n",
        "wait_seconds: float = 1\n",
    ],
    allows=["def f(timeout_s: float): ...\n", "class A:\n    interval: Interval\n"],
)
def quantities_end_in_their_unit(source: Source) -> Problems:
    for node in source.nodes if source.is_shipped else ():
        match node:
            case ast.arg(arg=name, annotation=ast.Name(id="int" | "float")):
                line = node.lineno
            case ast.AnnAssign(target=ast.Name(id=name), annotation=ast.Name(id="int" | "float")):
                line = node.lineno
            case _:
                continue
        if UNITLESS.search(name):
            yield line, f"{name}: which unit? {name}_s or {name}_ms"
        elif LONG_UNIT.search(name):
            yield line, f"{name}: units are spelt _s, _ms, _us"


# --- Safety ---


@rule(
    PYTHON_RULES,
    catches=["match x:\n    case 1:\n        f()\n", "match x:\n    case _ if y:\n        f()\n"],
    allows=["match x:\n    case 1:\n        f()\n    case _:\n        assert_never(x)\n"],
)
def a_match_answers_everything(source: Source) -> Problems:
    for node in source.nodes if source.is_shipped else ():
        if isinstance(node, ast.Match):
            last = node.cases[-1]
            if not isinstance(last.pattern, ast.MatchAs) or last.pattern.pattern is not None or last.guard:
                yield node.lineno, "match without a last answer; end it with `case _: assert_never(value)`"


@rule(PYTHON_RULES, catches=["assert a and b\n"], allows=["assert a\nassert b\n", "assert a or b\n"])
def asserts_say_one_thing(source: Source) -> Problems:
    for node in source.nodes if source.is_shipped else ():
        match node:
            case ast.Assert(test=ast.BoolOp(op=ast.And())):
                yield node.lineno, "assert with `and`; one assert a line, so that the failing half is named"
            case _:
                pass


BANNED_CALLS = {
    "time.sleep": "trio.sleep, or better: wait for the event itself",
    "os.system": "trio.run_process",
    "eval": "a parser",
    "exec": "a function",
}


@rule(
    PYTHON_RULES,
    catches=[f"{name}(1)\n" for name in BANNED_CALLS],
    allows=["trio.sleep(1)\n", "evaluate(1)\n"],
)
def banned_calls_stay_out(source: Source) -> Problems:
    benchmark = source.path.startswith("tests/bench/")  # A process of its own, with nothing beside it to hold up.
    for node in source.nodes:
        if isinstance(node, ast.Call) and _dotted(node.func) in BANNED_CALLS:
            name = _dotted(node.func)
            if not (benchmark and name == "time.sleep"):
                yield node.lineno, f"{name}(); instead: {BANNED_CALLS[name]}"


@rule(
    PYTHON_RULES,
    catches=["trio.open_memory_channel(math.inf)\n", "trio.open_memory_channel[int](inf)\n"],
    allows=["trio.open_memory_channel(64)\n", "trio.open_memory_channel[int](queue_len_max)\n"],
)
def queues_have_an_end(source: Source) -> Problems:
    for node in source.nodes:
        if not isinstance(node, ast.Call):
            continue
        function = node.func.value if isinstance(node.func, ast.Subscript) else node.func
        endless = any(_dotted(argument) in ("math.inf", "inf") for argument in node.args)
        if endless and _dotted(function).endswith("open_memory_channel"):
            yield node.lineno, "a queue without an end; give it a size and name its answer when full"


BANNED_IMPORTS = {
    "asyncio": "trio",
    "unittest.mock": "a fake in infermesh.testing",
    "pickle": "msgspec",
    "urllib.request": "infermesh.net.fetch",
    "requests": "infermesh.net.fetch",
}


@rule(
    PYTHON_RULES,
    catches=[
        "import asyncio\n",
        "from unittest import mock\n",
        "from pickle import loads\n",
        "import requests\n",
    ],
    allows=["import trio\n", "from unittest import TestCase\n", "from urllib.parse import urlsplit\n"],
)
def banned_imports_stay_out(source: Source) -> Problems:
    for node in source.nodes if not source.path.startswith(PEER_PROGRAMS) else ():
        if not isinstance(node, ast.Import | ast.ImportFrom):
            continue
        base = f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
        for name in [base + alias.name for alias in node.names]:
            for banned, instead in BANNED_IMPORTS.items():
                if f"{name}.".startswith(f"{banned}."):
                    yield node.lineno, f"imports {banned}; instead: {instead}"


@rule(
    PYTHON_RULES,
    catches=["from infermesh.net.pool import _Slot\n", "from wire.http1 import _scan\n"],
    allows=["from infermesh.net.pool import Pool\n", "from infermesh import __version__\n"],
)
def private_names_stay_private(source: Source) -> Problems:
    for node in source.nodes if source.is_shipped else ():
        if not isinstance(node, ast.ImportFrom) or not f"{node.module}.".startswith(("wire.", "infermesh.")):
            continue
        for alias in node.names:
            if alias.name.startswith("_") and not alias.name.endswith("__"):
                yield (
                    node.lineno,
                    f"imports {node.module}.{alias.name}; make it public or ask its owner for more",
                )


@rule(
    PYTHON_RULES,
    catches=["self._nursery = nursery\n", "class A:\n    tasks: trio.Nursery\n"],
    allows=["async def f(nursery: trio.Nursery) -> None: ...\n"],
)
def nurseries_stay_in_their_function(source: Source) -> Problems:
    for node in source.nodes:
        match node:
            case ast.Assign(targets=[ast.Attribute(attr=name)]) | ast.AnnAssign(target=ast.Attribute(attr=name)):
                stored = "nursery" in name.lower()
            case ast.AnnAssign(target=ast.Name(), annotation=annotation):
                stored = _dotted(annotation).endswith("Nursery")
            case _:
                continue
        if stored and isinstance(node, ast.stmt):
            yield node.lineno, "a nursery kept on an object; pass it to the function that starts tasks in it"


@rule(PYTHON_RULES, catches=["print(1)\n"], allows=["log.info('x')\n"])
def only_commands_print(source: Source) -> Problems:
    for node in () if source.path.startswith(PRINTING) else source.nodes:
        if isinstance(node, ast.Call) and _dotted(node.func) == "print":
            yield node.lineno, "print(); a log event from infermesh.observe.logs, or a return value"


def _dotted(node: ast.AST) -> str:
    match node:
        case ast.Name(id=name):
            return name
        case ast.Attribute(value=value, attr=name):
            return f"{_dotted(value)}.{name}"
        case _:
            return ""


# --- Every text file (patterns and plants are pieced together: this file must not hold what it bans) ---

MACHINE_PATH = re.compile(r"(?<![\w.$}/-])/(?:work|root|home|Users)/[\w.-]")
PACKAGE_INDEX = re.compile(
    r"pypi\.org|pythonhost[e]d|[-]-(?:extra-)?index-url|_INDEX_UR[L]|registry\.npmjs|/simple/?['\"\s]"
)
FIX_LATER = re.compile(r"\bFIX[M]E\b|\bX[X]X\b")
DO_LATER = re.compile(r"\bTO[D]O\b(?!\(#\d+\): \S)")


@rule(
    TEXT_RULES,
    catches=["/".join(["see ", "home", "ada", "mesh"]), "/".join(['"', "work", "main"])],
    allows=["https://example.net/home/page", "/var/lib/infermesh", "$HOME/work/x"],
)
def no_paths_of_one_machine(source: Source) -> Problems:
    yield from _matches(source, MACHINE_PATH, "a path of somebody's machine; make it relative to the checkout")


@rule(
    TEXT_RULES,
    catches=[
        "https://" + ".".join(["pypi", "org"]),
        "pip install -" + "-index-url x",
        "PIP_INDEX" + "_URL=x",
    ],
    allows=["pip install -e .", "the package index"],
)
def no_package_index_is_named(source: Source) -> Problems:
    yield from _matches(source, PACKAGE_INDEX, "a package index; leave it to the configuration of pip or npm")


@rule(
    TEXT_RULES,
    catches=["# FIX" + "ME: later", "# TO" + "DO: later", "# TO" + "DO(#12)"],
    allows=["# TO" + "DO(#12): h2 arrives with issue 12", "fixme"],
)
def no_debt_on_main(source: Source) -> Problems:
    if source.path.endswith(".md"):
        return  # Prose may speak of the rule.
    yield from _matches(source, FIX_LATER, "mend it now")
    yield from _matches(source, DO_LATER, "write `(#12): the reason` after it, or do it now")


@rule(TEXT_RULES, catches=["a\r\n", "a"], allows=["a\n", ""])
def lines_end_in_a_line_feed(source: Source) -> Problems:
    if "\r" in source.text:
        yield 1, "carriage returns; end lines with a line feed"
    if source.text and not source.text.endswith("\n"):
        yield source.text.count("\n") + 1, "no line feed at the end of the file"


def _matches(source: Source, pattern: re.Pattern[str], advice: str) -> Problems:
    for number, line in enumerate(source.text.splitlines(), start=1):
        found = pattern.search(line)
        if found:
            yield number, f"{found.group()!r}: {advice}"


# --- Tests mirror sources ---


def mirror_problem(test: str, exists: Callable[[str], bool]) -> str | None:
    """Why `test` has no source of the same path and name; None when it has one.

    tests/core/routing/test_race.py mirrors infermesh/core/routing/race.py, and tests/wire mirrors wire. A
    second file on the same source adds its topic: test_race_budget.py. A package is a source too, and where its
    code is its __init__, tests/wire/sse/test_sse.py is its mirror.
    """
    folders = test.split("/")[1:-1]
    if not folders or folders[0] in CROSS_CUTTING:
        return None
    base = "/".join(folders if folders[0] == "wire" else ["infermesh", *folders])
    words = Path(test).stem.removeprefix("test_").split("_")
    names = ["_".join(words[:count]) for count in range(len(words), 0, -1)]
    if any(exists(f"{base}/{name}.py") or exists(f"{base}/{name}/__init__.py") for name in names):
        return None
    if folders[-1] in names and exists(f"{base}/__init__.py"):
        return None
    return f"{test}: no {base}/{names[0]}.py; give the test the path and name of the source it is about"


@pytest.mark.parametrize(
    ("test", "fine"),
    [
        ("tests/core/routing/test_race.py", True),
        ("tests/core/routing/test_race_budget.py", True),
        ("tests/core/routing/test_lottery.py", False),
        ("tests/core/test_routing.py", True),
        ("tests/core/routing/test_routing.py", True),
        ("tests/core/routing/test_routing_table.py", True),
        ("tests/core/test_race.py", False),
        ("tests/wire/http1/test_head.py", True),
        ("tests/http1/test_head.py", False),
        ("tests/interop/test_curl.py", True),
        ("tests/test_docs.py", True),
    ],
)
def test_a_test_file_mirrors_its_source(test: str, fine: bool) -> None:
    tree = {"infermesh/core/routing/race.py", "infermesh/core/routing/__init__.py", "wire/http1/head.py"}
    assert (mirror_problem(test, tree.__contains__) is None) is fine


# --- The gates ---


@functools.cache
def sources() -> tuple[Source, ...]:
    found = []
    for path in sorted(ROOT.rglob("*")):
        parts = path.relative_to(ROOT).parts
        hidden = any(part.startswith(".") and part != ".ci" for part in parts[:-1])
        if hidden or SKIPPED_FOLDERS & set(parts) or any(part.endswith(".egg-info") for part in parts):
            continue
        if path.is_file() and path.suffix in TEXT_SUFFIXES:
            found.append(Source(path.relative_to(ROOT).as_posix(), path.read_text("utf-8")))
    return tuple(found)


def problems(rule: Rule, files: Sequence[Source]) -> list[str]:
    return [f"{source.path}:{line}: {text}" for source in files for line, text in rule.check(source)]


@pytest.mark.parametrize("rule", PYTHON_RULES, ids=lambda rule: rule.name)
def test_python_files_keep_the_style(rule: Rule) -> None:
    found = problems(rule, [source for source in sources() if source.is_python and not source.is_generated])
    assert not found, "\n" + "\n".join(found)


@pytest.mark.parametrize("rule", TEXT_RULES, ids=lambda rule: rule.name)
def test_text_files_keep_the_style(rule: Rule) -> None:
    found = problems(rule, sources())
    assert not found, "\n" + "\n".join(found)


@pytest.mark.parametrize("rule", PYTHON_RULES + TEXT_RULES, ids=lambda rule: rule.name)
def test_each_rule_catches_what_was_planted(rule: Rule) -> None:
    assert rule.catches, f"{rule.name} proves nothing"
    for text in rule.catches:
        assert problems(rule, [Source(rule.path, text)]), f"not caught: {text[:200]!r}"
    for text in rule.allows:
        assert not problems(rule, [Source(rule.path, text)]), f"caught for nothing: {text[:200]!r}"


def test_every_test_file_mirrors_a_source_file() -> None:
    tests = [s.path for s in sources() if s.path.startswith("tests/") and s.is_python]
    found = [
        mirror_problem(test, lambda path: (ROOT / path).is_file())
        for test in tests
        if Path(test).name.startswith("test_")
    ]
    wrong = [problem for problem in found if problem is not None]
    assert not wrong, "\n" + "\n".join(wrong)


def test_the_walk_sees_the_repository() -> None:
    assert {"tests/test_tidy.py", "wire/limits.py", "pyproject.toml"} <= {source.path for source in sources()}
