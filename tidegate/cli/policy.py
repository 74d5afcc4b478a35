"""``tidegate policy``: work on policy files, without a node."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tidegate.cli.exits import Exit
from tidegate.cli.output import Format, FormatOption, print_json, visible

if TYPE_CHECKING:
    from l7filters.documents import DocumentError
    from l7filters.ir import PolicyProblem

policy = typer.Typer(help="Work on policy files, without a node.", no_args_is_help=True)


@policy.callback()
def _policy() -> None:
    """Work on policy files, without a node."""


@policy.command()
def validate(
    paths: Annotated[list[Path], typer.Argument(help="Files, or directories as a node would read them.", metavar="PATH...")],
    endpoints: Annotated[
        Path | None,
        typer.Option(help="Also compile against this endpoints.yaml, as a node would.", metavar="FILE", show_default=False),
    ] = None,
    output: FormatOption = Format.TABLE,
) -> None:
    """Check policy documents: every mistake with its file, document, line, field and a hint.

    Exits 0 if all are valid, 3 if any is not. With --endpoints also reports what could not be realised on a node.

    Examples:

      tidegate policy validate ./policies

      tidegate policy validate rule1.yaml --endpoints endpoints.yaml -o json
    """
    from tidegate.offline import build_world, node_of, problems_of, read_endpoints, read_paths

    state = read_paths(paths)
    errors = list(state.errors)
    problems: tuple[PolicyProblem, ...] = ()
    if endpoints is not None:
        entries, wrong = read_endpoints(endpoints)
        errors += wrong
        problems = problems_of(build_world(state, entries, node_of(None)))
    errors.sort(key=lambda error: (error.source, error.index, error.line or 0))
    count = len(state.documents)
    is_valid = not errors and not problems
    if output is Format.JSON:
        from tidegate.jsonvalue import encode

        print_json({"valid": is_valid, "documents": count, "errors": encode(errors), "problems": encode(problems)})
    else:
        for error in errors:
            _print_error(error)
        for problem in problems:
            _print_problem(problem)
        mistakes = len(errors) + len(problems)
        documents = f"{count} {'document' if count == 1 else 'documents'}"
        if mistakes:
            print(f"\n{mistakes} {'mistake' if mistakes == 1 else 'mistakes'} in {documents}")
        else:
            print(f"{documents}, all valid")
    raise typer.Exit(Exit.OK if is_valid else Exit.INVALID)


def _print_error(error: DocumentError) -> None:
    """Print one mistake as compilers do, so that editors can jump to it."""
    line = f":{error.line}" if error.line is not None else ""
    path = f" {error.path}:" if error.path else ""
    print(visible(f"{error.source}{line}: document {error.index}:{path} {error.message}"))
    if error.hint:
        print(visible(f"  hint: {error.hint}"))


def _print_problem(problem: PolicyProblem) -> None:
    print(visible(f"{problem.policy}: {problem.path}: {problem.message}"))
    if problem.hint:
        print(visible(f"  hint: {problem.hint}"))
