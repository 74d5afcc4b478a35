"""What commands print: JSON for scripts, tables for people.

Owns: the formats, the console and the cells. Text from outside (paths of requests, names of pods, messages of servers) never
reaches a terminal raw: control characters are shown escaped. Colour only on a terminal, and not with NO_COLOR.
"""

from __future__ import annotations

import json
import os
import sys
import unicodedata
from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

PIPE_WIDTH = 500
"""Nothing is folded or cut where no screen says how wide it is."""


class Format(StrEnum):
    """How a command prints."""

    TABLE = "table"
    JSON = "json"


FormatOption = Annotated[Format, typer.Option("--output", "-o", help="How to print the answer.", show_default=True)]

STYLES = {
    "ready": "green",
    "realised": "green",
    "ok": "green",
    "allowed": "green",
    "forwarded": "green",
    "redirected": "cyan",
    "audited": "yellow",
    "regenerating": "yellow",
    "waiting": "yellow",
    "pending": "yellow",
    "starting": "yellow",
    "warning": "yellow",
    "failed": "bold red",
    "down": "bold red",
    "denied": "bold red",
    "dropped": "red",
    "error": "red",
    "missing": "bold red",
}
"""Words that stand for a state, and their colour."""


def print_json(value: object) -> None:
    """Print one JSON value, indented. ASCII only: what it holds may be no text that this terminal can, or should, show."""
    print(json.dumps(value, indent=2))


def visible(text: str) -> str:
    """Return ``text`` with every character that could command a terminal, or reorder text, escaped."""
    return "".join(character if _is_plain(character) else _escape(character) for character in text)


def _is_plain(character: str) -> bool:
    return character == " " or unicodedata.category(character)[0] not in "CZ"


def _escape(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode()


def screen_width() -> int | None:
    """Return how many cells stdout has in a line; None where it is no screen and COLUMNS doesn't say."""
    if os.environ.get("COLUMNS", "").isdigit():
        return int(os.environ["COLUMNS"])
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns
    except (OSError, ValueError):
        return None


def console(stderr: bool = False) -> Console:
    """Return where tables go."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() or "COLUMNS" in os.environ else PIPE_WIDTH
    return Console(file=stream, width=width, highlight=False, markup=False, emoji=False, soft_wrap=False)


def show(renderable: Any) -> None:
    """Print a table to stdout, without the padding at the ends of its lines."""
    screen = console()
    with screen.capture() as captured:
        screen.print(renderable)
    sys.stdout.write("".join(f"{line.rstrip()}\n" for line in captured.get().splitlines()))


def show_text(text: str) -> None:
    """Print lines of prose; a verdict in capitals at the beginning of one is coloured."""
    screen = console()
    for line in text.splitlines():
        word = line.partition(":")[0].partition(" ")[0]
        shown = cell(line)
        if word.isupper() and word.lower() in STYLES:
            shown.stylize(STYLES[word.lower()], 0, len(word))
        screen.print(shown, soft_wrap=True)


def cell(text: object, style: str = "") -> Text:
    """Return text for a table, coloured by its meaning if it is a state."""
    from rich.text import Text

    shown = visible(str(text))
    return Text(shown, style=style or STYLES.get(shown, ""))


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> Table:
    """Return a table without lines: it can be read, cut and grepped. A column that may be empty is left out if it is."""
    from rich.table import Table

    cells = [[cell(value) for value in row] for row in rows]
    shown = [index for index, name in enumerate(columns) if name not in WRAPPING or any(row[index] for row in cells)]
    built = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for index in shown:
        name = columns[index]
        built.add_column(name, no_wrap=name not in WRAPPING, overflow="fold", min_width=len(name))
    for row in cells:
        built.add_row(*(row[index] for index in shown))
    return built


WRAPPING = frozenset({"MESSAGE", "DETAIL", "ADDRESSES"})
"""Columns that give way when the screen is narrow, and go when they have nothing to say."""
