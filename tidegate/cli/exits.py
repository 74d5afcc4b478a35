"""Exit codes of the commands: those of the whole program."""

from tidegate.exits import Exit

__all__ = ["Exit"]
