"""``tidegate version``."""

from __future__ import annotations

from tidegate.cli.output import Format, FormatOption, print_json


def version(output: FormatOption = Format.TABLE) -> None:
    """Print the versions of Tidegate, Python and the kernel."""
    found = versions()
    if output is Format.JSON:
        print_json(found)
    else:
        print(f"tidegate {found['tidegate']} (Python {found['python']}, Linux {found['kernel']})")


def versions() -> dict[str, str]:
    """Return what runs here."""
    import platform
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as installed

    try:
        ours = installed("tidegate")
    except PackageNotFoundError:
        ours = "unknown (not installed)"
    return {"tidegate": ours, "python": platform.python_version(), "kernel": platform.release()}
