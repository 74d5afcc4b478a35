"""Errors that a command ends with, and how they are shown: what is wrong, where, what to do; on stderr, without traceback.

Owns: the mapping from typed errors to messages and exit codes. A type that isn't listed here is a bug in Tidegate, and its
traceback is shown.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import typer
from typer.core import TyperGroup

from tidegate.cli.exits import Exit


class CommandError(Exception):
    """A command can't do what it was asked; ``hint`` says what to do, ``code`` what scripts see."""

    def __init__(self, message: str, hint: str = "", code: Exit = Exit.NO) -> None:
        super().__init__(message)
        self.hint = hint
        self.code = code


class UsageError(CommandError):
    """The command line asks for something that makes no sense."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message, hint, Exit.USAGE)


class CommandGroup(TyperGroup):
    """The commands, with one place where their errors end."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command; turn its typed errors into a message and an exit code."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise typer.Exit(Exit.INTERRUPTED) from None
        except BrokenPipeError:
            # Whoever read our output has seen enough (`tidegate flows | head`); don't fail again when stdout is flushed.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(Exit.OK) from None
        except Exception as error:  # the boundary of a command; what isn't known is raised again
            code = show_error(error)
            if code is None:
                raise
            raise typer.Exit(code) from None


def show_error(error: Exception) -> Exit | None:
    """Print ``error`` to stderr and return the exit code; None (nothing printed) if it is not one of the known kinds."""
    from tidegate.admin.client import NodeRefused, NodeUnreachable
    from tidegate.config.settings import ConfigError

    match error:
        case ConfigError():
            for problem in error.problems:
                where = f"{error.source}: {problem.field}" if problem.field else error.source
                complain(f"{where}: {problem.message}", problem.hint)
            return Exit.INVALID
        case NodeUnreachable():
            complain(str(error), error.hint)
            return Exit.UNREACHABLE
        case NodeRefused():
            complain(str(error), error.hint)
            return Exit.USAGE if error.is_question else Exit.REFUSED
        case CommandError():
            complain(str(error), error.hint)
            return error.code
        case _:
            return None


def complain(message: str, hint: str = "") -> None:
    """Print an error, and below it what to do."""
    from tidegate.cli.output import visible

    is_terminal = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
    label = "\033[31merror:\033[0m" if is_terminal else "error:"
    print(f"{label} {visible(message)}", file=sys.stderr)
    if hint:
        print(f"  hint: {visible(hint)}", file=sys.stderr)
