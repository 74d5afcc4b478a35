"""The ``tidegate`` command. One file per subcommand; what a command needs is imported when it runs, so that help is fast."""

from __future__ import annotations

import typer

from tidegate.cli.cleanup import cleanup
from tidegate.cli.dnsproxy import dnsproxy
from tidegate.cli.doctor import doctor
from tidegate.cli.errors import CommandGroup
from tidegate.cli.explain import explain
from tidegate.cli.flows import flows
from tidegate.cli.maps import maps
from tidegate.cli.policy import policy
from tidegate.cli.run import run
from tidegate.cli.status import status
from tidegate.cli.version import version

__all__ = ["app", "main"]

app = typer.Typer(
    name="tidegate",
    cls=CommandGroup,
    help="L7 network policy without sidecars: eBPF steers marked traffic into one stock Envoy per node.",
    epilog="Exit codes: 0 yes, 1 no, 2 usage, 3 invalid file, 4 no agent, 5 machine lacks something, 6 refused. See docs/cli.md.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(run)
app.command()(status)
app.add_typer(policy, name="policy")
app.command()(explain)
app.command()(flows)
app.command()(maps)
app.command()(doctor)
app.command()(cleanup)
app.command()(dnsproxy)
app.command()(version)


def main() -> None:
    """Run the command line."""
    app()
