"""Exit codes: an interface that scripts depend on. Numbers are never reused. Not in ``cli``: that brings typer, which weighs."""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """What a command's exit status means; docs/cli.md repeats this table."""

    OK = 0
    """It is so: realised, allowed, valid, all required present."""
    NO = 1
    """It is not so: not all realised, denied, something required is missing."""
    USAGE = 2
    """The command line is wrong."""
    INVALID = 3
    """A file is wrong: node.yaml, a policy, the endpoints."""
    UNREACHABLE = 4
    """No agent answers for this node."""
    MACHINE = 5
    """This machine lacks something that is needed (kernel, rights, a program), or refused an operation."""
    REFUSED = 6
    """Not done because it would be harmful now; the message says how to insist."""
    INTERRUPTED = 130
    """Ended by Ctrl-C, as shells report it."""
