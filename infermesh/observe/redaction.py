"""Keep secrets and endless values out of the logs: by the name of a field, by the shape of a text, by length.

A net under the callers, not their licence: nobody should log a header table or a key in the first place.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Mapping

REDACTED = "[redacted]"
TEXT_CHARS_MAX = 4096
TRACE_CHARS_MAX = 16384
ITEMS_MAX = 64
DEPTH_MAX = 4

# `token` but not `tokens`: counts of tokens are this product's daily bread. Numbers are never secret anyway.
_SECRET_WORDS = frozenset(
    (
        *("authorization", "password", "passwd", "passphrase", "secret", "secrets", "token", "jwt"),
        *("bearer", "credential", "credentials", "cookie", "apikey", "keyring"),
    )
)
_SECRET_PAIRS = (
    ("api", "key"),
    ("private", "key"),
    ("access", "key"),
    ("signing", "key"),
    ("encryption", "key"),
    ("key", "material"),
    ("key", "pem"),
    ("set", "cookie"),
)
# What follows one of these is a place or a name, not the secret: token_file, key_path, credential_id.
_HARMLESS_ENDS = frozenset({"file", "path", "id", "name", "count", "ms", "s"})
_SECRET_TEXT = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)"
    r"|\bauthorization[\"']?\s*[:=]\s*[\"']?(?:basic\s+|bearer\s+)?[^\s\"',]+"
    r"|\bbearer\s+[A-Za-z0-9._~+/=-]{12,}"
    r"|(?<=://)[^/\s:@]+:[^/\s@]+(?=@)"
    r"|\bsk-[A-Za-z0-9_-]{16,}"
    r"|\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*",
    re.DOTALL | re.IGNORECASE,
)
# Cheap test before the expression runs: each secret text holds one of these.
_SECRET_MARKS = ("-----", "earer", "EARER", "uthorization", "UTHORIZATION", "sk-", "eyJ", "@")


@functools.lru_cache(maxsize=2048)
def is_secret_name(name: str) -> bool:
    """True for `authorization`, `x-api-key`, `join_token`; false for `token_file` and `prompt_tokens`."""
    words = re.findall(r"[a-z0-9]+", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower())
    if not words or words[-1] in _HARMLESS_ENDS:
        return False
    return bool(_SECRET_WORDS & set(words)) or any(pair in _SECRET_PAIRS for pair in itertools.pairwise(words))


def clean_field(name: str, value: object, depth: int = 0) -> object:
    """`value` as it may be written under `name`: numbers as they are, the rest redacted, cut and plain."""
    if value is None or isinstance(value, int | float):
        return value
    if is_secret_name(name):
        return REDACTED
    if isinstance(value, str):
        return _clean_text(value, TRACE_CHARS_MAX if name == "exception" else TEXT_CHARS_MAX)
    if isinstance(value, bytes | bytearray | memoryview):
        return _clean_text(bytes(value[: TEXT_CHARS_MAX + 1]).decode("utf-8", "backslashreplace"))
    if depth >= DEPTH_MAX:
        return f"[{type(value).__name__}]"
    if isinstance(value, Mapping):
        items = list(value.items())[:ITEMS_MAX]
        return {str(key): clean_field(str(key), item, depth + 1) for key, item in items}
    if isinstance(value, set | frozenset):
        value = sorted(value, key=repr)
    if isinstance(value, list | tuple):
        return [clean_field(name, item, depth + 1) for item in value[:ITEMS_MAX]]
    return _clean_text(_words_for(value))


def _words_for(value: object) -> str:
    try:
        # An exception without a message would show as nothing at all.
        return str(value) or repr(value)
    except Exception as error:  # noqa: BLE001 - a broken __str__ of somebody else must not break a log call.
        return f"[{type(value).__name__} without words: {type(error).__name__}]"


def _clean_text(text: str, chars_max: int = TEXT_CHARS_MAX) -> str:
    if len(text) > chars_max:
        # The end of a traceback names the error, the begin of any other text says what it is.
        half = chars_max // 2
        text = f"{text[:half]}...[{len(text) - chars_max} characters cut]...{text[-half:]}"
    if any(mark in text for mark in _SECRET_MARKS):
        text = _SECRET_TEXT.sub(REDACTED, text)
    return text
