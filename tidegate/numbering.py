"""The numbering on disk: identities.json and slots.json of the state directory.

Owns: writing both so that a crash leaves the old or the new file whole, and reading them at start. What can't be read is set
aside and the numbering starts anew: numbers are then new ones, and what the kernel still holds is replaced as a whole.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import structlog

from l7filters.identity import IdentityTable
from l7filters.saved import SavedTableError, dump_identities, dump_slots, load_identities, load_slots
from l7filters.slots import SlotTable

_log = structlog.get_logger()

T = TypeVar("T")


class NumberingFiles:
    """Both files of one state directory."""

    def __init__(self, identities_file: Path, slots_file: Path) -> None:
        self._identities_file = identities_file
        self._slots_file = slots_file

    def load(self) -> tuple[IdentityTable, SlotTable]:
        """Return the numbering as it was saved. Ids that rested are free: what drained on them is long gone."""
        identities = _load(self._identities_file, load_identities, IdentityTable())
        slots = _load(self._slots_file, load_slots, SlotTable())
        return identities, replace(slots, resting=frozenset())

    def save(self, identities: IdentityTable, slots: SlotTable) -> None:
        """Write both; after this returns they survive a crash. Raises OSError."""
        replace_file(self._identities_file, dump_identities(identities))
        replace_file(self._slots_file, dump_slots(slots))


def replace_file(path: Path, text: str) -> None:
    """Make ``path`` hold ``text``: whole, or as before. Raises OSError."""
    beside = path.with_name(path.name + ".new")
    with beside.open("w") as file:
        file.write(text)
        file.flush()
        os.fdatasync(file.fileno())
    beside.replace(path)


def _load(path: Path, parse: Callable[[str], T], empty: T) -> T:
    try:
        return parse(path.read_text())
    except FileNotFoundError:
        return empty
    except (SavedTableError, UnicodeDecodeError) as error:
        aside = path.with_name(path.name + ".unreadable")
        path.replace(aside)
        _log.warning("numbering_unreadable", file=str(path), kept_as=str(aside), reason=str(error))
        return empty
