"""What a package offers is listed: `__all__` of its `__init__` names what it binds there, and nothing else.

A package whose `__init__` holds no code offers its modules instead. Generated protobuf packages have no list.
"""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def packages() -> list[str]:
    files = [file for top in ("wire", "infermesh") for file in sorted((ROOT / top).rglob("__init__.py"))]
    names = [".".join(file.parent.relative_to(ROOT).parts) for file in files]
    return [name for name in names if not name.startswith("wire.proto.")]


def bound_names(source: str) -> set[str]:
    """Public names that an `__init__` defines, or imports from us; what it imports from others is its own affair."""
    names: set[str] = set()
    for node in ast.parse(source).body:
        match node:
            case ast.ImportFrom(module=str(module)) if module.split(".")[0] in ("wire", "infermesh"):
                names |= {alias.asname or alias.name for alias in node.names}
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                names.add(name)
            case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
                names.add(name)
            case _:
                pass
    return {name for name in names if not name.startswith("_")}


@pytest.mark.parametrize("package", packages())
def test_a_package_lists_what_it_offers(package: str) -> None:
    file = ROOT.joinpath(*package.split(".")) / "__init__.py"
    module = importlib.import_module(package)
    listed = list(getattr(module, "__all__", ()))
    missing = [name for name in listed if not hasattr(module, name)]
    assert not missing, f"{package}.__all__ names what is not there: {missing}"
    assert len(listed) == len(set(listed)), f"{package}.__all__ names something twice"
    if listed:
        return
    bound = bound_names(file.read_text("utf-8"))
    assert not bound, f"{package} binds {sorted(bound)}; list what is public in __all__"


def test_names_from_us_and_own_names_count_as_offered() -> None:
    source = "from wire.http1 import Head, Limits as _Limits\nfrom math import inf\nTABLE = 1\n_x = 2\ndef f(): ...\n"
    assert bound_names(source) == {"Head", "TABLE", "f"}
