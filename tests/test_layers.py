"""The map of the repository: which package may import which, and which packages stay pure.

One table, one checker, and planted bad sources that the checker must catch. A package without a row fails, so
that nobody adds one without saying where it stands. Rows of packages that do not exist yet are kept: their
place is decided (DESIGN section 3).
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
OURS = ("wire", "infermesh")


@dataclass(frozen=True, slots=True)
class Row:
    """One package. It may import any package of lower rank, itself, and those named in `beside`."""

    rank: int
    pure: bool = False
    beside: tuple[str, ...] = ()  # Packages of the same rank that it may import.
    lifted: tuple[str, ...] = ()  # Impure modules that it may import all the same.


EDGE = ("infermesh.node", "infermesh.emulator", "infermesh.testing")

LAYERS: dict[str, Row] = {
    # Namespaces: they hold packages, not code.
    "infermesh": Row(rank=0, pure=True),
    "infermesh.core": Row(rank=0, pure=True),
    "infermesh.planes": Row(rank=0, pure=True),
    # Bytes.
    "wire": Row(rank=0, pure=True),
    # Decisions.
    "infermesh.core.model": Row(rank=1, pure=True),
    "infermesh.core.swim": Row(rank=2, pure=True),
    "infermesh.core.raft": Row(rank=2, pure=True),
    "infermesh.core.fusion": Row(rank=2, pure=True),
    "infermesh.core.routing": Row(rank=2, pure=True),
    "infermesh.core.policy": Row(rank=2, pure=True),
    "infermesh.core.trust": Row(rank=2, pure=True),
    "infermesh.core.kernel": Row(rank=3, pure=True),
    # Waiting, and the simulated world, which waits for nothing.
    "infermesh.net": Row(rank=4),
    "infermesh.store": Row(rank=4),
    "infermesh.observe": Row(rank=4),
    "infermesh.sim": Row(rank=4, pure=True, lifted=("random",)),
    # Thin drivers, one package per plane. They meet in `node`, not in each other.
    "infermesh.planes.data": Row(rank=5),
    "infermesh.planes.signal": Row(rank=5),
    "infermesh.planes.control": Row(rank=5),
    # The daemon and the two other things that are put together from planes.
    "infermesh.node": Row(rank=6, beside=EDGE),
    "infermesh.emulator": Row(rank=6, beside=EDGE),
    "infermesh.testing": Row(rank=6, beside=EDGE),
    "infermesh.cli": Row(rank=7),
}

GIVEN_NOW = "take `now: float` as an argument"
GIVEN_RNG = "take `rng: infermesh.core.model.ports.Rng` at construction"
GIVEN_BYTES = "take and return bytes; the trio side moves them"
RETURN_EFFECTS = "return effects; the driver acts on them"
RETURN_EVENTS = "return events; the driver logs them"

# A module here may not be imported by a pure package. The text is what to do instead.
IMPURE: dict[str, str] = {
    "trio": RETURN_EFFECTS,
    "asyncio": RETURN_EFFECTS,
    "anyio": RETURN_EFFECTS,
    "threading": RETURN_EFFECTS,
    "multiprocessing": RETURN_EFFECTS,
    "concurrent": RETURN_EFFECTS,
    "queue": RETURN_EFFECTS,
    "signal": RETURN_EFFECTS,
    "subprocess": RETURN_EFFECTS,
    "sched": RETURN_EFFECTS,
    "time": GIVEN_NOW,
    "datetime": f"{GIVEN_NOW}; Unix seconds where wall time is meant",
    "random": GIVEN_RNG,
    "secrets": GIVEN_RNG,
    "uuid": GIVEN_RNG,
    "socket": GIVEN_BYTES,
    "ssl": GIVEN_BYTES,
    "select": GIVEN_BYTES,
    "selectors": GIVEN_BYTES,
    "urllib": GIVEN_BYTES,
    "http": GIVEN_BYTES,
    "os": "take config as an argument",
    "pathlib": GIVEN_BYTES,
    "tempfile": GIVEN_BYTES,
    "shutil": GIVEN_BYTES,
    "io": GIVEN_BYTES,
    "mmap": GIVEN_BYTES,
    "platform": "take config as an argument",
    "locale": "take config as an argument",
    "logging": RETURN_EVENTS,
    "warnings": RETURN_EVENTS,
    "importlib": "import by name at the top of the file",
}

# The same for calls of builtins.
IMPURE_CALLS: dict[str, str] = {
    "open": GIVEN_BYTES,
    "input": GIVEN_BYTES,
    "print": RETURN_EVENTS,
    "breakpoint": "a test",
    "__import__": "import by name at the top of the file",
    "hash": "xxhash: `hash` of text differs from process to process",
}

# Other people's packages that compute and do nothing else; a pure package may import these and no others.
PURE_LIBRARIES = frozenset({"cryptography", "google", "httptools", "msgspec", "numpy", "wsproto", "xxhash"})

# What `sim` may take from `random`: a generator that has a seed.
SEEDED = frozenset({"Random"})


def package_of(module: str) -> str | None:
    """The row that `module` falls under: the longest one that is a prefix of it."""
    parts = module.split(".")
    for length in range(len(parts), 0, -1):
        candidate = ".".join(parts[:length])
        if candidate in LAYERS:
            return candidate
    return None


def problems_of(module: str, source: str) -> list[str]:
    """Every breach of the map in one module, each with its line and what to do instead."""
    package = package_of(module)
    if package is None or not _covers(package, module):
        return [f"{module}: no row in LAYERS of tests/test_layers.py; add one that says where it stands"]
    tree = ast.parse(source)
    found = []
    for node in ast.walk(tree):
        for line, target in _imports(node):
            found += [f"{module}:{line}: {text}" for text in _import_problems(package, target)]
        if LAYERS[package].pure:
            found += [f"{module}:{line}: {text}" for line, text in _call_problems(package, node)]
    return sorted(set(found))


def _covers(package: str, module: str) -> bool:
    # A namespace row covers its own __init__ only: what lies below needs its own row.
    return package not in ("infermesh", "infermesh.core", "infermesh.planes") or module == package


def _imports(node: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of each import, at the top of the file, inside a function or for typing only."""
    match node:
        case ast.Import(names=names):
            yield from ((node.lineno, alias.name) for alias in names)
        case ast.ImportFrom(module=base, names=names, level=0):
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in names)
        case ast.ImportFrom():
            yield node.lineno, "."
        case _:
            pass


def _import_problems(package: str, target: str) -> list[str]:
    row = LAYERS[package]
    top = target.split(".", maxsplit=1)[0]
    if top == "":
        return ["relative import; write the absolute name"]
    if top in OURS:
        return _own_import_problems(package, target)
    if not row.pure:
        return []
    if top in IMPURE and top not in row.lifted:
        return [f"{package} is pure and imports {top}; instead: {IMPURE[top]}"]
    if top == "random" and target.count(".") and target.split(".")[1] not in SEEDED:
        return [f"{package} imports {target}; instead: a `random.Random(seed)` of its own"]
    if top not in sys.stdlib_module_names and top not in PURE_LIBRARIES:
        return [f"{package} is pure and imports {top}, which is not in PURE_LIBRARIES"]
    return []


def _own_import_problems(package: str, target: str) -> list[str]:
    other = package_of(target)
    assert other is not None, f"{target}: each of OURS has a row"
    row = LAYERS[package]
    if other == package or other in row.beside or LAYERS[other].rank < row.rank:
        return []
    if LAYERS[other].rank == row.rank:
        return [f"{package} imports its sibling {other}; instead: share through a package below both"]
    return [f"{package} imports {other}, which is above it; instead: move the shared part down"]


def _call_problems(package: str, node: ast.AST) -> Iterator[tuple[int, str]]:
    match node:
        case ast.Call(func=ast.Name(id=name)) if name in IMPURE_CALLS:
            yield node.lineno, f"{package} is pure and calls {name}(); instead: {IMPURE_CALLS[name]}"
        case ast.Call(func=ast.Name(id="Random"), args=[]):
            yield node.lineno, f"{package} makes a Random without a seed; instead: Random(seed)"
        case ast.Call(func=ast.Attribute(value=ast.Name(id="random"), attr="Random"), args=[]):
            yield node.lineno, f"{package} makes a Random without a seed; instead: Random(seed)"
        case ast.Attribute(value=ast.Name(id="random"), attr=attribute) if attribute not in SEEDED:
            yield node.lineno, f"{package} uses random.{attribute}; instead: a Random(seed) of its own"
        case _:
            pass


def modules() -> list[tuple[str, Path]]:
    """Every module of ours with its file. Generated protobuf code turns bytes into values: on the map too."""
    found = []
    for top in OURS:
        for file in sorted((ROOT / top).rglob("*.py")):
            parts = file.relative_to(ROOT).with_suffix("").parts
            found.append((".".join(parts[:-1] if parts[-1] == "__init__" else parts), file))
    return found


def test_every_import_points_down_and_pure_packages_stay_pure() -> None:
    found = [text for module, file in modules() for text in problems_of(module, file.read_text("utf-8"))]
    assert not found, "\n" + "\n".join(found)


def test_the_walk_finds_both_trees() -> None:
    names = {module for module, _ in modules()}
    assert {"wire.limits", "infermesh.core.model.state"} <= names


def test_no_folder_holds_code_without_being_a_package() -> None:
    bare = {file.parent for _, file in modules() if not (file.parent / "__init__.py").exists()}
    # setuptools leaves such a folder out of the wheel, and imports from the checkout hide it.
    assert not bare, f"add an __init__.py: {sorted(str(folder.relative_to(ROOT)) for folder in bare)}"


PLANTED = {
    "a core that imports trio": ("infermesh.core.routing.race", "import trio", "return effects"),
    "a core that imports part of trio": (
        "infermesh.core.routing.race",
        "from trio.lowlevel import checkpoint",
        "trio",
    ),
    "a core that imports trio inside a function": (
        "infermesh.core.model.x",
        "def f() -> None:\n    import trio\n",
        "return effects",
    ),
    "a codec that reads the clock": ("wire.http1.parser", "import time", "take `now: float`"),
    "a codec that reads the calendar": ("wire.http1.parser", "from datetime import datetime", "Unix seconds"),
    "a core that draws a number": ("infermesh.core.fusion.x", "from random import random", "Rng"),
    "a core that draws a secret": ("infermesh.core.trust.x", "import secrets", "Rng"),
    "a codec that opens a socket": ("wire.sse.x", "import socket", "take and return bytes"),
    "a core that speaks TLS": ("infermesh.core.trust.x", "import ssl", "take and return bytes"),
    "a core that reads the environment": ("infermesh.core.kernel.x", "import os.path", "take config"),
    "a core that starts a thread": ("infermesh.core.kernel.x", "import threading", "return effects"),
    "a core that logs": ("infermesh.core.kernel.x", "import logging", "return events"),
    "a core that logs by a library": ("infermesh.core.kernel.x", "import structlog", "PURE_LIBRARIES"),
    "a core that opens a file": ("infermesh.core.kernel.x", "open('f')", "take and return bytes"),
    "a core that prints": ("infermesh.core.kernel.x", "print(1)", "return events"),
    "a core that trusts hash()": ("infermesh.core.routing.x", "k = hash('a')", "xxhash"),
    "an upward import into core": ("wire.http1.x", "from infermesh.core.model import names", "above it"),
    "an upward import into a plane": ("infermesh.net.x", "import infermesh.planes.data.frontend", "above it"),
    "an upward import into node": (
        "infermesh.planes.data.x",
        "from infermesh.node.config import C",
        "above it",
    ),
    "an upward import into the command line": (
        "infermesh.testing.x",
        "import infermesh.cli.main",
        "above it",
    ),
    "an upward import for typing only": (
        "infermesh.core.model.x",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from infermesh.core.routing import race\n",
        "above it",
    ),
    "a core that imports the kernel": (
        "infermesh.core.fusion.x",
        "import infermesh.core.kernel.k",
        "above it",
    ),
    "a core that imports its sibling": (
        "infermesh.core.routing.x",
        "from infermesh.core.fusion.y import Z",
        "sibling",
    ),
    "a sibling import by its package": (
        "infermesh.core.routing.x",
        "from infermesh.core import trust",
        "sibling",
    ),
    "observe that imports net": ("infermesh.observe.x", "from infermesh.net import fetch", "sibling"),
    "a plane that imports a plane": (
        "infermesh.planes.data.x",
        "import infermesh.planes.control.loop",
        "sibling",
    ),
    "a relative import": ("infermesh.net.x", "from . import y", "absolute"),
    "a package without a row": ("infermesh.core.billing.x", "", "no row"),
    "a top-level package without a row": ("infermesh.billing", "", "no row"),
    "a plane without a row": ("infermesh.planes.billing.x", "", "no row"),
    "a simulator that imports trio": ("infermesh.sim.x", "import trio", "return effects"),
    "a simulator on the global generator": (
        "infermesh.sim.x",
        "import random\nrandom.random()\n",
        "of its own",
    ),
    "a simulator with a borrowed function": ("infermesh.sim.x", "from random import choice", "of its own"),
    "a simulator without a seed": (
        "infermesh.sim.x",
        "import random\nr = random.Random()\n",
        "without a seed",
    ),
}


@pytest.mark.parametrize("name", PLANTED)
def test_the_checker_catches(name: str) -> None:
    module, source, expected = PLANTED[name]
    found = problems_of(module, source)
    assert found, f"not caught: {name}"
    assert all(expected in text for text in found)


ALLOWED = {
    "the kernel joins the cores": (
        "infermesh.core.kernel.x",
        "from infermesh.core.fusion.f import F\nfrom infermesh.core.model.names import NodeId\nimport math\n",
    ),
    "a codec uses limits and a native parser": (
        "wire.http1.x",
        "import httptools\nfrom wire import limits\n",
    ),
    "the simulator has a seeded generator": (
        "infermesh.sim.x",
        "import random\ndef f(seed: int) -> random.Random:\n    return random.Random(seed)\n",
    ),
    "net waits": ("infermesh.net.x", "import socket\nimport ssl\nimport trio\nfrom wire.http1 import head\n"),
    "a test mesh starts daemons": ("infermesh.testing.x", "from infermesh.node.assemble import run\n"),
    "the command line sees everything": (
        "infermesh.cli.x",
        "import infermesh.sim.y\nimport infermesh.node.z\n",
    ),
}


@pytest.mark.parametrize("name", ALLOWED)
def test_the_checker_allows(name: str) -> None:
    module, source = ALLOWED[name]
    assert problems_of(module, source) == []
