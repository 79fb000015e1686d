"""Where code waits: every `await` of a file, by name, and the moment at which a task comes to wait at one.

For tests of cancellation. `sites_of` reads the source, so that a table of sites can be held against it and a new await
is noticed. `OnParked` watches the run loop and acts at the very step in which a task has come to wait at a site, be it
for ever or only until the next turn.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import FrameType

import msgspec
import trio

ROOT = Path(__file__).resolve().parents[2]


class AwaitSite(msgspec.Struct, frozen=True, order=True):
    """One await: `net/pool.py: UpstreamPool.acquire: await self._freed.park()`."""

    file: str  # From the package's folder.
    function: str
    text: str

    def __str__(self) -> str:
        return f"{self.file}: {self.function}: {self.text}"


class _Span(msgspec.Struct, frozen=True):
    first: int
    last: int
    site: AwaitSite


class AwaitSites:
    """The sites of some files, each named from the folder of the package `infermesh`."""

    def __init__(self, files: Iterable[str]) -> None:
        self._spans: dict[str, list[_Span]] = {}
        for file in files:
            path = ROOT / "infermesh" / file
            self._spans[str(path)] = list(_spans(file, ast.parse(path.read_text("utf-8"))))

    def all(self) -> list[AwaitSite]:
        return sorted({span.site for spans in self._spans.values() for span in spans})

    def named(self, name: str) -> AwaitSite:
        """The site whose `str` this is."""
        found = [site for site in self.all() if str(site) == name]
        assert found, f"no await is named {name!r}; there are:\n" + "\n".join(map(str, self.all()))
        return found[0]

    def of_task(self, task: trio.lowlevel.Task) -> list[AwaitSite]:
        """The sites at which a task waits now, outermost first. Empty for one that has ended."""
        if getattr(task.coro, "cr_frame", None) is None:
            return []
        found = [self._of_frame(frame, line) for frame, line in task.iter_await_frames()]
        return [site for site in found if site is not None]

    def tasks_at(self, site: AwaitSite) -> list[trio.lowlevel.Task]:
        """Every task of this run that waits there, whatever it waits for inside."""
        return [task for task in _all_tasks() if site in self.of_task(task)]

    def _of_frame(self, frame: FrameType, line: int) -> AwaitSite | None:
        spans = self._spans.get(frame.f_code.co_filename)
        if spans is None:
            return None
        fitting = [span for span in spans if span.first <= line <= span.last]
        # An await inside the arguments of another one begins later.
        return max(fitting, key=lambda span: span.first).site if fitting else None


class OnParked(trio.abc.Instrument):
    """`act(task)` once, when a task (`where`) waits at all of `sites`, a chain of calls, and `when()` holds.

    Without `when` that is at the very step in which the task came there. With it the task may have waited before.
    `act` runs between two steps of the loop: it may cancel scopes and close sockets, and must not raise.
    """

    def __init__(
        self,
        known: AwaitSites,
        sites: Iterable[AwaitSite],
        act: Callable[[trio.lowlevel.Task], None],
        *,
        when: Callable[[], bool] | None = None,
        where: Callable[[trio.lowlevel.Task], bool] | None = None,
    ) -> None:
        self._where = where
        self._known = known
        self._sites = frozenset(sites)
        self._act = act
        self._when = when
        self.acted = trio.Event()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        if self.acted.is_set():
            return
        tasks: Iterable[trio.lowlevel.Task] = (task,)
        if self._when is not None:
            tasks = _all_tasks() if self._when() else ()
        for waiting in tasks:
            there = self._sites <= set(self._known.of_task(waiting))
            if there and (self._where is None or self._where(waiting)):
                self.acted.set()
                self._act(waiting)
                return


def _all_tasks() -> list[trio.lowlevel.Task]:
    root = trio.lowlevel.current_root_task()
    found = [] if root is None else [root]
    for task in found:
        found += [child for nursery in task.child_nurseries for child in nursery.child_tasks]
    return found


def _spans(file: str, tree: ast.AST, inside: tuple[str, ...] = ()) -> Iterator[_Span]:
    for node in ast.iter_child_nodes(tree):
        match node:
            case ast.ClassDef(name=name) | ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                yield from _spans(file, node, (*inside, name))
                continue
            case ast.Await(value=value):
                yield _span(file, inside, node, f"await {ast.unparse(value)}")
            case ast.AsyncWith(items=items):
                names = ", ".join(ast.unparse(item.context_expr) for item in items)
                last = items[-1].context_expr.end_lineno or node.lineno
                yield _Span(node.lineno, last, _site(file, inside, f"async with {names}"))
            case ast.AsyncFor(iter=source):
                last = source.end_lineno or node.lineno
                yield _Span(node.lineno, last, _site(file, inside, f"async for {ast.unparse(source)}"))
            case _:
                pass
        yield from _spans(file, node, inside)


def _span(file: str, inside: tuple[str, ...], node: ast.expr, text: str) -> _Span:
    return _Span(node.lineno, node.end_lineno or node.lineno, _site(file, inside, text))


def _site(file: str, inside: tuple[str, ...], text: str) -> AwaitSite:
    return AwaitSite(file, ".".join(inside), text)
