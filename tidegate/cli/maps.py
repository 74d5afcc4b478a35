"""``tidegate maps``."""

from __future__ import annotations

from dataclasses import asdict
from itertools import islice
from typing import Annotated

import typer

from tidegate.cli.errors import CommandError
from tidegate.cli.exits import Exit
from tidegate.cli.options import ConfigOption, node_config
from tidegate.cli.output import Format, FormatOption, print_json, show, table

PREFIX = "tg_"


def maps(
    name: Annotated[str, typer.Argument(help="A map, with or without tg_; without one all are listed.", show_default=False)] = "",
    config: ConfigOption = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="Show at most so many entries.")] = 1000,
    output: FormatOption = Format.TABLE,
) -> None:
    """Show the BPF maps of this node: how full each is, or what is in one. Needs root, and no agent.

    Example:  tidegate maps l7_verdicts
    """
    from bpf_redirect import inspect
    from bpf_redirect.errors import DatapathError
    from bpf_redirect.maps import Maps
    from bpf_redirect.pins import PinRoot

    settings = node_config(config)
    try:
        with Maps.open(PinRoot(str(settings.bpf.pin_root)).maps) as opened:
            if not name:
                listed: list[dict[str, object]] = [asdict(each) for each in inspect.fills(opened)]
                _print(listed, ("NAME", "ENTRIES", "CAPACITY"), output)
                return
            full = name if name.startswith(PREFIX) else PREFIX + name
            if full not in opened.by_name:
                hint = "one of " + ", ".join(sorted(opened.by_name))
                raise CommandError(f"there is no map {name}", hint, Exit.USAGE)
            rows = [dict(row) for row in islice(inspect.rows(opened[full]), limit)]
    except DatapathError as error:
        hint = error.hint or "is tidegate loaded, and are you root?"
        raise CommandError(error.message, hint, Exit.MACHINE) from error
    columns = tuple(dict.fromkeys(key for row in rows for key in row))
    _print(rows, tuple(column.upper() for column in columns), output)


def _print(rows: list[dict[str, object]], headings: tuple[str, ...], output: Format) -> None:
    if output is Format.JSON:
        print_json(rows)
        return
    keys = [heading.lower() for heading in headings]
    show(table(headings, [["-" if row.get(key) is None else row[key] for key in keys] for row in rows]))
