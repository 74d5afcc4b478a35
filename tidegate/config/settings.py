"""Reading a settings file: strict YAML, and sections whose every field is checked.

Owns: the errors of a settings file and the reader of one mapping. Must not know which settings there are. Nothing is
ignored: a key written twice, an unknown key, a wrong type or a value out of range is a problem with its place and a hint.

Errors::

    ConfigError      the file can't be found, read or understood; ``problems`` says where and what to do
"""

from __future__ import annotations

import difflib
import ipaddress
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import TypeVar

E = TypeVar("E", bound=StrEnum)
PORT_MAX = 65535


@dataclass(frozen=True, slots=True)
class ConfigProblem:
    """One thing wrong with the file. ``field`` is a dotted path or a line, empty for the file as a whole."""

    field: str
    message: str
    hint: str = ""

    def __str__(self) -> str:
        where = f"{self.field}: " if self.field else ""
        return f"{where}{self.message}" + (f" ({self.hint})" if self.hint else "")


class ConfigError(Exception):
    """The file can't be used. The user's fault, and what to do is in every problem."""

    def __init__(self, source: str, problems: Iterable[ConfigProblem]) -> None:
        self.source = source
        self.problems = tuple(problems)
        super().__init__("\n".join(f"{source}: {problem}" for problem in self.problems))


def load_yaml(data: bytes, name: str) -> object:
    """Parse a file of one YAML document, read as policy documents are. Raises ConfigError naming ``name``."""
    from l7filters.documents.yamltree import read_documents  # not at the top: `tidegate --help` must not pay for YAML

    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        problem = ConfigProblem("", f"not UTF-8 text: byte {error.start} is 0x{data[error.start]:02x}", "save it as UTF-8")
        raise ConfigError(name, [problem]) from error
    documents = list(read_documents(text))
    for document in documents:
        if document.problem is not None:
            where = f"line {document.problem.line}" if document.problem.line is not None else ""
            raise ConfigError(name, [ConfigProblem(where, document.problem.message, document.problem.hint)])
    if len(documents) > 1:
        problem = ConfigProblem(f"line {documents[1].line}", "a second document begins here", "remove the `---` line")
        raise ConfigError(name, [problem])
    return documents[0].tree if documents else None


class Section:
    """One mapping of the file. Each getter checks and returns a field, or notes a problem and returns the default.

    ``finish`` notes every key that no getter asked for. All sections of a file share one list of problems.
    """

    def __init__(self, raw: object, where: str, problems: list[ConfigProblem]) -> None:
        self._where = where
        self._problems = problems
        self._known: list[str] = []
        self._raw: dict[object, object] = {}
        if isinstance(raw, dict):
            self._raw = raw
        elif raw is not None or not where:
            hint = "write `key: value` lines" if not where else f"write `{where.rpartition('.')[2]}: {{key: value}}`"
            problems.append(ConfigProblem(where, f"expected a mapping, found {kind_of(raw)}", hint))

    def problem(self, key: str, message: str, hint: str = "") -> None:
        """Note a problem with a field of this section."""
        self._problems.append(ConfigProblem(self._path(key), message, hint))

    def has(self, key: str) -> bool:
        """Tell whether the field is written and not empty."""
        return self._raw.get(key) is not None

    def section(self, key: str) -> Section:
        """Return a nested section; an absent one is empty."""
        return Section(self._get(key), self._path(key), self._problems)

    def require(self, key: str, example: str) -> None:
        """Note a problem if the field is missing."""
        if not self.has(key) and not (not self._raw and self._problems):
            self.problem(key, "missing", f"add `{key}: {example}`")

    def value(self, key: str) -> object:
        """Return a field as it is, for the caller to check."""
        return self._get(key)

    def text(self, key: str, default: str) -> str:
        """Return a string field."""
        raw = self._get(key)
        if raw is None:
            return default
        if isinstance(raw, str):
            return raw
        self.problem(key, f"expected text, found {kind_of(raw)}", _quoted(key, raw))
        return default

    def flag(self, key: str, default: bool) -> bool:
        """Return a boolean field."""
        raw = self._get(key)
        if raw is None:
            return default
        if isinstance(raw, bool):
            return raw
        self.problem(key, f"expected true or false, found {kind_of(raw)}")
        return default

    def integer(self, key: str, default: int, least: int, most: int) -> int:
        """Return a whole number within ``least``..``most``."""
        raw = self._get(key)
        if raw is None:
            return default
        if isinstance(raw, bool) or not isinstance(raw, int):
            self.problem(key, f"expected a whole number, found {kind_of(raw)}")
            return default
        if not least <= raw <= most:
            self.problem(key, f"{raw} is out of range", f"write a number from {least} to {most}; the default is {default}")
            return default
        return raw

    def number(self, key: str, default: float, least: float, most: float) -> float:
        """Return a number within ``least``..``most``."""
        raw = self._get(key)
        if raw is None:
            return default
        if isinstance(raw, bool) or not isinstance(raw, int | float) or not math.isfinite(raw):
            self.problem(key, f"expected a number, found {kind_of(raw)}")
            return default
        if not least <= raw <= most:
            hint = f"write a number from {least:g} to {most:g}; the default is {default:g}"
            self.problem(key, f"{raw:g} is out of range", hint)
            return default
        return float(raw)

    def choice(self, key: str, choices: type[E], default: E) -> E:
        """Return a member of an enumeration."""
        raw = self._get(key)
        if raw is None:
            return default
        for member in choices:
            if raw == member.value or (raw is False and member.value == "off"):  # YAML 1.1 reads off as false
                return member
        allowed = ", ".join(member.value for member in choices)
        self.problem(key, f"{raw!r} is not one of {allowed}", close_match(str(raw), [m.value for m in choices]))
        return default

    def path(self, key: str, base: Path) -> Path | None:
        """Return a path, made absolute from ``base``; None where absent."""
        raw = self._get(key)
        if raw is None:
            return None
        if not isinstance(raw, str) or not raw or "\0" in raw:
            self.problem(key, f"expected a path, found {kind_of(raw)}")
            return None
        return Path(os.path.normpath(base / Path(raw).expanduser()))

    def strings(self, key: str) -> tuple[str, ...] | None:
        """Return a list of strings; None where absent."""
        raw = self._get(key)
        if raw is None:
            return None
        if not isinstance(raw, list) or not all(isinstance(item, str) and item for item in raw):
            self.problem(key, f"expected a list of words, found {kind_of(raw)}", f"write `{key}: [one, two]`")
            return None
        return tuple(raw)

    def ports(self, key: str, default: tuple[int, ...], most: int) -> tuple[int, ...]:
        """Return a list of up to ``most`` port numbers, sorted."""
        raw = self._get(key)
        if raw is None:
            return default
        if not isinstance(raw, list) or not all(isinstance(item, int) and not isinstance(item, bool) for item in raw):
            self.problem(key, f"expected a list of ports, found {kind_of(raw)}", f"write `{key}: [443, 8443]`")
            return default
        wrong = [item for item in raw if not 1 <= item <= PORT_MAX]
        if wrong or len(raw) > most:
            found = f"{wrong[0]} is no port" if wrong else f"{len(raw)} ports are too many"
            self.problem(key, found, f"at most {most} numbers from 1 to {PORT_MAX}")
            return default
        return tuple(sorted(set(raw)))

    def string_map(self, key: str) -> dict[str, str]:
        """Return a mapping of strings; empty where absent."""
        raw = self._get(key)
        if raw is None:
            return {}
        if not isinstance(raw, dict):
            self.problem(key, f"expected a mapping, found {kind_of(raw)}", f"write `{key}: {{name: value}}`")
            return {}
        result: dict[str, str] = {}
        for name, value in raw.items():
            if not isinstance(name, str) or not isinstance(value, str):
                self.problem(f"{key}.{name}", f"expected text, found {kind_of(value)}", _quoted(name, value))
                continue
            result[name] = value
        return result

    def addresses(self, key: str) -> tuple[IPv4Address | IPv6Address, ...] | None:
        """Return a list of IP addresses; None where absent."""
        found: list[IPv4Address | IPv6Address] = []
        for text in self.strings(key) or ():
            try:
                found.append(ipaddress.ip_address(text))
            except ValueError:
                self.problem(key, f"{text!r} is not an IP address", "write it without a prefix length")
        return tuple(found) if self.has(key) else None

    def finish(self) -> None:
        """Note every key that nobody asked for."""
        for key in self._raw:
            if key not in self._known:
                hint = close_match(str(key), self._known) or f"known here: {', '.join(sorted(self._known))}"
                self.problem(str(key), "unknown field", hint)

    def _get(self, key: str) -> object:
        if key not in self._known:
            self._known.append(key)
        return self._raw.get(key)

    def _path(self, key: str) -> str:
        return f"{self._where}.{key}" if self._where else key


def _quoted(key: object, raw: object) -> str:
    """Return the hint to quote a value; what YAML read as a boolean can't be shown as it was written."""
    is_number = isinstance(raw, int | float) and not isinstance(raw, bool)
    return f'quote it: `{key}: "{raw}"`' if is_number else "put it in quotes"


def close_match(word: str, candidates: Iterable[str]) -> str:
    """Return a "did you mean" hint, empty when nothing is near."""
    near = difflib.get_close_matches(word.lower(), [*candidates], n=1)
    folded = {candidate.lower(): candidate for candidate in candidates}
    if not near:
        near = [folded[name] for name in difflib.get_close_matches(word.lower(), [*folded], n=1)]
    return f"did you mean {near[0]}?" if near else ""


def kind_of(value: object) -> str:
    """Name what YAML found in the words of a person who writes YAML."""
    match value:
        case None:
            return "nothing"
        case bool():
            return "true" if value else "false"
        case int() | float():
            return f"the number {value}"
        case str():
            return "empty text" if not value else "text"
        case list():
            return "a list"
        case dict():
            return "a mapping"
        case _:
            return f"a {type(value).__name__}"
