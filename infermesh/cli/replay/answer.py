"""One answer as it comes: its head, when its tokens came, and whether it is whole.

Pure: fed with bytes and the time they were received at, by a client that decides what to do. The stream's JSON is
not parsed; events are counted by their ends and looked at only for the few words that decide something. A token
is an event that carries text: with servers that put several tokens into one event, gaps are gaps of events.
"""

from __future__ import annotations

import re
from array import array

import httptools

_TOKEN = re.compile(rb'"(?:content|text|reasoning_content|reasoning)":\s*"[^"]')
_ERROR = re.compile(rb'^data: ?\{"error":')
_DONE = re.compile(rb"^data: ?\[DONE\]")
_USAGE = re.compile(rb'"(prompt_tokens|completion_tokens)":\s*(\d+)')
_MESSAGE = re.compile(rb'"message":\s*"((?:[^"\\]|\\.){0,200})')
_EVENT_BYTES_MAX = 1_048_576
_ERROR_BODY_BYTES_MAX = 4_096


class BadAnswer(Exception):
    """Bytes that are no HTTP/1.1 answer."""


class Answer:
    """Reads one answer."""

    __slots__ = (
        "_begun",
        "_error_body",
        "_framed",
        "_parser",
        "_rest",
        "_separator",
        "complete",
        "completion_tokens",
        "done_mark",
        "error_message",
        "first_event_at",
        "first_token_at",
        "gaps_s",
        "headers",
        "keep_alive",
        "last_byte_at",
        "last_token_at",
        "prompt_tokens",
        "status",
        "tokens",
    )

    def __init__(self) -> None:
        self.status = 0  # 0: no head yet.
        self.headers: dict[bytes, bytes] = {}
        self.complete = False  # The message ended as its framing says.
        self.keep_alive = False
        self.done_mark = False  # The stream said that it is whole.
        self.error_message = ""
        self.first_event_at = 0.0
        self.first_token_at = 0.0
        self.last_token_at = 0.0
        self.last_byte_at = 0.0
        self.gaps_s: array[float] = array("f")  # Between each token and the one before.
        self.tokens = 0
        self.prompt_tokens = 0  # As the server counted them; 0: it did not say.
        self.completion_tokens = 0
        self._begun = False
        self._framed = False
        self._rest = b""
        self._separator = b""
        self._error_body = b""
        self._parser = httptools.HttpResponseParser(self)

    @property
    def begun(self) -> bool:
        """Any byte came."""
        return self._begun

    def feed(self, data: bytes, now: float) -> None:
        """Bytes that were received at `now`. Raises BadAnswer."""
        self._begun = True
        self.last_byte_at = now
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserCallbackError as error:
            # What a callback below raised, a defect included, comes wrapped.
            assert error.__context__ is not None
            raise error.__context__ from None
        except httptools.HttpParserError as error:
            raise BadAnswer(f"no HTTP/1.1 answer: {error}") from error

    def end(self) -> bool:
        """The connection ended. An answer without framing ends with it; any other is broken by it: then False."""
        if self.status and not self._framed and not self.complete:
            self.complete = True
            self._finish()
        return self.complete

    # --- called by httptools ---

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        self.headers[name] = value
        if name in (b"content-length", b"transfer-encoding"):
            self._framed = True

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200:  # 103 and its kin: the answer is still to come.
            self.headers.clear()
            self._framed = False
            return
        self.status = status
        self.keep_alive = self._parser.should_keep_alive()

    def on_body(self, body: bytes) -> None:
        if self.status != 200:
            if len(self._error_body) < _ERROR_BODY_BYTES_MAX:
                self._error_body += body
            return
        self._take_events(body)

    def on_message_complete(self) -> None:
        if self.status:
            self.complete = True
            self._finish()

    # --- inside ---

    def _take_events(self, body: bytes) -> None:
        if not self.first_event_at:
            self.first_event_at = self.last_byte_at
        seen = self._rest + body if self._rest else body
        separator = self._separator or self._find_separator(seen)
        cut = seen.rfind(separator)
        if cut < 0:
            if len(seen) > _EVENT_BYTES_MAX:
                raise BadAnswer(f"an event of over {_EVENT_BYTES_MAX} bytes")
            self._rest = seen
            return
        self._rest = seen[cut + len(separator) :]
        whole = seen[:cut]
        if self.first_token_at and _is_plain(whole):
            self._take_tokens(whole.count(separator) + 1)
        else:
            self._take_tokens(sum(self._is_token(event) for event in whole.split(separator)))

    def _find_separator(self, seen: bytes) -> bytes:
        if b"\r\n\r\n" in seen:
            self._separator = b"\r\n\r\n"
        elif b"\n\n" in seen:
            self._separator = b"\n\n"
        return self._separator or b"\n\n"

    def _is_token(self, event: bytes) -> bool:
        """Look at one event closely; True when it carries text."""
        event = event.lstrip()
        if _DONE.match(event):
            self.done_mark = True
            return False
        if _ERROR.match(event):
            self.error_message = _words(event)
            return False
        for name, value in _USAGE.findall(event):
            if name == b"prompt_tokens":
                self.prompt_tokens = int(value)
            else:
                self.completion_tokens = int(value)
        return event.startswith(b"data") and _TOKEN.search(event) is not None

    def _take_tokens(self, count: int) -> None:
        if not count:
            return
        if self.first_token_at:
            self.gaps_s.append(self.last_byte_at - self.last_token_at)
        else:
            self.first_token_at = self.last_byte_at
        for _ in range(count - 1):
            self.gaps_s.append(0.0)  # They came together: that is what the client saw.
        self.tokens += count
        self.last_token_at = self.last_byte_at

    def _finish(self) -> None:
        if self._error_body:
            self.error_message = _words(self._error_body)
            self._error_body = b""


def _is_plain(events: bytes) -> bool:
    """Nothing but events with a token's text each, as nearly all are; told without looking at each."""
    return not (
        b"[DONE]" in events
        or b'"completion_tokens"' in events
        or b'"error"' in events
        or b'"text":""' in events
        or b'"content":""' in events
        or b"\n:" in events
        or events[:5] != b"data:"
    )


def _words(body: bytes) -> str:
    found = _MESSAGE.search(body)
    return (found.group(1) if found else body[:200]).decode("utf-8", "replace").strip()
