"""Ask a daemon's admin port: one GET, its JSON, and every failure as the exit code and sentence it deserves.

`ask` is for commands that put one question, `AdminConnection` for those that keep asking. Not for the client
port: `mesh bench` has its own client.
"""

from __future__ import annotations

from typing import TypeVar
from urllib.parse import quote, urlencode

import click
import msgspec
import trio

from infermesh.cli.exits import CommandFailed, NoQuorum, Refused, Unreachable
from infermesh.net.exchange import parse_url
from infermesh.net.fetch import FetchedResponse, FetchError, FetchRefusedError, HttpClient

ADMIN_DEFAULT = "http://127.0.0.1:9090"
ADMIN_VARIABLE = "INFERMESH_ADMIN"
_DEADLINE_S = 5.0
_ANSWER_BYTES_MAX = 64 * 2**20  # A thousand nodes with a few models each are under 1 MB.

T = TypeVar("T")


def _check_url(_context: click.Context, _option: click.Parameter, value: str) -> str:
    try:
        return parse_url(value if "://" in value else f"http://{value}").base_url
    except FetchError as error:
        raise click.BadParameter(str(error)) from None


admin_option = click.option(
    "--admin",
    metavar="URL",
    default=ADMIN_DEFAULT,
    show_default=True,
    envvar=ADMIN_VARIABLE,
    show_envvar=True,
    callback=_check_url,
    help="Admin port of the daemon to ask.",
)


class AdminConnection:
    """One kept connection to an admin port. The owner calls `aclose`."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._client = HttpClient(url)

    async def get(self, path: str) -> bytes:
        """The body of a 200. Raises CommandFailed for everything else."""
        try:
            answer = await self._client.request(path, deadline_s=_DEADLINE_S, body_bytes_max=_ANSWER_BYTES_MAX)
        except FetchError as error:
            raise Unreachable(
                f"no answer from the admin port at {self.url} ({_reason(error)}): start meshd there, or name "
                f"another with --admin URL or {ADMIN_VARIABLE}"
            ) from None
        if answer.status != 200:
            raise _failure(self.url, path, answer)
        return answer.body

    async def read(self, path: str, kind: type[T]) -> T:
        return self.decode(path, await self.get(path), kind)

    def decode(self, path: str, body: bytes, kind: type[T]) -> T:
        try:
            return msgspec.json.decode(body, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise CommandFailed(
                f"{self.url}{path.partition('?')[0]} answered what no meshd answers ({error}): give --admin the "
                "admin port of meshd, and use `mesh` of the same release"
            ) from None

    async def aclose(self) -> None:
        await self._client.aclose()


def ask(url: str, path: str, kind: type[T]) -> tuple[T, bytes]:
    """The answer as a value, and as the bytes it came in."""

    async def once() -> tuple[T, bytes]:
        connection = AdminConnection(url)
        try:
            body = await connection.get(path)
            return connection.decode(path, body, kind), body
        finally:
            await connection.aclose()

    return trio.run(once)


def path_of(*parts: str, **query: str | int) -> str:
    """A path with its parts and query escaped; a value of "" or 0 is left out."""
    path = "".join(f"/{quote(part, safe='')}" for part in parts)
    given = {name: value for name, value in query.items() if value}
    return f"{path}?{urlencode(given, quote_via=quote)}" if given else path


class _ErrorBody(msgspec.Struct):
    """What an error answer may look like: OpenAI's shape, or a bare message."""

    error: dict[str, object] | str | None = None
    message: str | None = None
    code: str | None = None


def _failure(url: str, path: str, answer: FetchedResponse) -> CommandFailed:
    message, code = _words(answer)
    where = f"{url}{path.partition('?')[0]}"
    if answer.status in (401, 403):
        return Refused(f"{where} refused: {message or 'it names no reason'}")
    if code in ("no_quorum", "no_leader"):
        return NoQuorum(f"{where}: {message}; try again when a majority is back")
    if answer.status == 404 and not message:
        return CommandFailed(f"{where} is not there: give --admin the admin port of a meshd with this command")
    return CommandFailed(f"{where} answered {answer.status}: {message or 'no reason given'}")


def _words(answer: FetchedResponse) -> tuple[str, str]:
    """(message, code) of an error answer, as far as it has them."""
    try:
        body = msgspec.json.decode(answer.body, type=_ErrorBody)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return "", ""
    if isinstance(body.error, dict):
        return str(body.error.get("message") or ""), str(body.error.get("code") or "")
    return body.message or body.error or "", body.code or ""


def _reason(error: FetchError) -> str:
    if isinstance(error, FetchRefusedError):
        return "connection refused"
    # "GET http://127.0.0.1:9090/v1/nodes: reason": the address is in our own sentence already.
    text = str(error)
    return text.partition(": ")[2] if text.startswith("GET ") else text
