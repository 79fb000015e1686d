"""Where the values of a config come from: defaults, then the file, then INFERMESH_SECTION__KEY, then flags.

Each source is turned into typed values at once, so that a fault is told with the place it stands in. Reading goes
on after a fault: an operator wants the whole list. Not here: what a value must be (`config_keys`).
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from infermesh.node.config_keys import KeySpec, ValueFault, keys_of, read_list, show, take_text, take_value
from infermesh.node.config_sections import ENTRIES_MAX, SECTIONS, TABLES

ENVIRONMENT_PREFIX = "INFERMESH_"
FILE_BYTES_MAX = 1 << 20
PROBLEMS_MAX = 50

SPECS: dict[str, KeySpec] = {
    f"{name}.{spec.name}": spec for name, section in SECTIONS.items() for spec in keys_of(section)
}
TABLE_SPECS: dict[str, dict[str, KeySpec]] = {
    name: {spec.name: spec for spec in keys_of(section)} for name, section in TABLES.items()
}


class ConfigError(Exception):
    """The config cannot be used. `problems` are complete sentences, one each."""

    def __init__(self, problems: tuple[str, ...]) -> None:
        shown = list(problems[:PROBLEMS_MAX])
        if len(problems) > PROBLEMS_MAX:
            shown.append(f"and {len(problems) - PROBLEMS_MAX} more")
        super().__init__("\n".join(shown))
        self.problems = problems


@dataclass(slots=True)
class Settings:
    """What was read. `values` holds only what somebody said; `origins` says who, by dotted key."""

    folder: Path  # Relative paths are relative to it.
    values: dict[str, object] = field(default_factory=dict)
    tables: dict[str, list[dict[str, object]]] = field(default_factory=lambda: {name: [] for name in TABLES})
    origins: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    wrong: set[str] = field(default_factory=set)  # Keys that were given a value that cannot be taken.

    def section(self, name: str) -> dict[str, object]:
        """What was said in one section, by key."""
        prefix = f"{name}."
        return {key.removeprefix(prefix): value for key, value in self.values.items() if key.startswith(prefix)}

    def put(self, key: str, value: object, origin: str) -> None:
        self.values[key] = value
        self.origins[key] = origin

    def complain(self, place: str, key: str, raw: object, fault: object) -> None:
        self.problems.append(f"{place}: {key} = {show(raw)} {fault}")
        self.wrong.add(key)


def read_settings(path: Path | None, environ: Mapping[str, str], flags: Mapping[str, str]) -> Settings:
    settings = Settings(folder=path.absolute().parent if path is not None else Path.cwd())
    if path is not None:
        _take_file(settings, path)
    _take_environment(settings, environ)
    for key, text in flags.items():
        _take_text(settings, key, text, f"flag {key}")
    _require(settings, path)
    return settings


def _require(settings: Settings, path: Path | None) -> None:
    place = str(path) if path is not None else "no config file"
    for key, spec in SPECS.items():
        if spec.required and key not in settings.values and key not in settings.wrong:
            settings.problems.append(f"{place}: {key} is missing. {spec.key.doc}")


# --- File ---


def _take_file(settings: Settings, path: Path) -> None:
    place = str(path)
    try:
        with path.open("rb") as file:
            content = file.read(FILE_BYTES_MAX + 1)
        if len(content) > FILE_BYTES_MAX:
            raise ConfigError((f"{path}: is over {FILE_BYTES_MAX} bytes, which no config is",))
        document = tomllib.loads(content.decode("utf-8"))
    except OSError as error:
        raise ConfigError((f"{path}: cannot be read: {error.strerror}; give another file with --config",)) from error
    except UnicodeDecodeError as error:
        raise ConfigError((f"{path}: is not UTF-8: {error.reason} at byte {error.start}",)) from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError((f"{path}: is not TOML: {error}",)) from error
    for name, content_of in document.items():
        if name in TABLES:
            _take_entries(settings, name, content_of, place)
        elif name not in SECTIONS:
            problem = f"{place}: [{name}] is no section{_suggest(name, [*SECTIONS, *TABLES])}; allowed: "
            settings.problems.append(problem + ", ".join([*SECTIONS, *TABLES]))
        elif not isinstance(content_of, Mapping):
            settings.complain(place, name, content_of, f"is a value; {name} is a section: write [{name}]")
        else:
            _take_section(settings, name, content_of, place)


def _take_section(settings: Settings, name: str, content: Mapping[str, object], place: str) -> None:
    for key, raw in content.items():
        spec = SPECS.get(f"{name}.{key}")
        if spec is None:
            settings.complain(place, f"{name}.{key}", raw, _unknown_key(f"{name}.{key}"))
            continue
        try:
            settings.put(f"{name}.{key}", take_value(spec, raw, settings.folder), place)
        except ValueFault as fault:
            settings.complain(place, f"{name}.{key}", raw, fault)


def _take_entries(settings: Settings, name: str, raw: object, place: str) -> None:
    """The whole of [[peers]] or [[runtimes]]: a later source replaces it, it does not add to it."""
    settings.tables[name] = []
    for key in [key for key in settings.origins if key.startswith(f"{name}[")]:
        del settings.origins[key]
    if not isinstance(raw, list):
        settings.complain(place, name, raw, f"is no list of tables: write [[{name}]]")
        return
    if len(raw) > ENTRIES_MAX[name]:
        settings.problems.append(f"{place}: {name} has {len(raw)} entries; allowed: up to {ENTRIES_MAX[name]}")
        return
    for number, entry in enumerate(raw):
        _take_entry(settings, name, number, entry, place)


def _take_entry(settings: Settings, name: str, number: int, entry: object, place: str) -> None:
    specs = TABLE_SPECS[name]
    at = f"{name}[{number}]"
    if not isinstance(entry, Mapping):
        settings.complain(place, at, entry, f"is no table; allowed keys: {', '.join(specs)}")
        return
    values: dict[str, object] = {}
    for key, raw in entry.items():
        if key not in specs:
            allowed = f"is no key{_suggest(key, list(specs))}; allowed in [[{name}]]: {', '.join(specs)}"
            settings.complain(place, f"{at}.{key}", raw, allowed)
            continue
        try:
            values[key] = take_value(specs[key], raw, settings.folder)
            settings.origins[f"{at}.{key}"] = place
        except ValueFault as fault:
            settings.complain(place, f"{at}.{key}", raw, fault)
    missing = [spec.name for spec in specs.values() if spec.required and spec.name not in entry]
    settings.problems += [f"{place}: {at}.{key} is missing. {specs[key].key.doc}" for key in missing]
    settings.tables[name].append(values)


# --- Environment and flags ---


def _take_environment(settings: Settings, environ: Mapping[str, str]) -> None:
    for variable, text in sorted(environ.items()):
        if not variable.startswith(ENVIRONMENT_PREFIX):
            continue
        section, double, key = variable.removeprefix(ENVIRONMENT_PREFIX).lower().partition("__")
        place = f"environment {variable}"
        if double:
            _take_text(settings, f"{section}.{key}", text, place)
        elif section in TABLES:
            _take_text(settings, section, text, place)
        else:
            _refuse_single_underscore(settings, variable, text)


def _refuse_single_underscore(settings: Settings, variable: str, text: str) -> None:
    """INFERMESH_CLIENT_LISTEN meant something; other variables of that prefix belong to scripts and tests."""
    words = variable.removeprefix(ENVIRONMENT_PREFIX).lower()
    for known in SPECS:
        if words == known.replace(".", "_"):
            right = ENVIRONMENT_PREFIX + known.replace(".", "__").upper()
            settings.complain("environment", variable, text, f"is not read; write {right}")


def _take_text(settings: Settings, key: str, text: str, place: str) -> None:
    if key in TABLES:
        try:
            _take_entries(settings, key, read_list(text), place)
        except ValueFault as fault:
            settings.complain(place, key, text, fault)
        return
    spec = SPECS.get(key)
    if spec is None:
        settings.complain(place, key, text, _unknown_key(key))
        return
    try:
        settings.put(key, take_text(spec, text, settings.folder), place)
    except ValueFault as fault:
        settings.complain(place, key, text, fault)


# --- Words ---


def _unknown_key(key: str) -> str:
    """For a key that does not exist: the nearest one, here or in another section, and those of its section."""
    section, _, name = key.partition(".")
    elsewhere = [known for known in SPECS if known.partition(".")[2] == name]
    hint = f"; did you mean {elsewhere[0]}?" if elsewhere else _suggest(key, list(SPECS))
    if section not in SECTIONS:
        return f"is no key{hint}; allowed sections: {', '.join(SECTIONS)}"
    allowed = ", ".join(spec.name for known, spec in SPECS.items() if known.startswith(f"{section}."))
    return f"is no key{hint}; allowed in [{section}]: {allowed}"


def _suggest(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(re.sub(r"[-\s]", "_", name.lower()), known, n=1, cutoff=0.6)
    return f"; did you mean {near[0]}?" if near else ""
