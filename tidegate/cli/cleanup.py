"""``tidegate cleanup``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from tidegate.cli.errors import CommandError
from tidegate.cli.exits import Exit
from tidegate.cli.options import ConfigOption, node_config
from tidegate.cli.output import Format, FormatOption, print_json, visible

if TYPE_CHECKING:
    from tidegate.config.node import NodeConfig

PROCESS_END_SECONDS = 5.0
"""A killed process is gone in milliseconds; this allows for a machine that swaps."""


def cleanup(
    config: ConfigOption = None,
    force: Annotated[
        bool, typer.Option("--force", help="Even while an agent runs: its policy is then no longer enforced.")
    ] = False,
    output: FormatOption = Format.TABLE,
) -> None:
    """Remove what a stopped node left behind: programs, pins, rules, routes, devices, changed sysctls. Policy then ends.

    Ends no process but an Envoy or a DNS proxy whose `tidegate run` was killed. Refuses while an agent runs. Doing it twice does
    no harm.

    Example:  tidegate cleanup --config node.yaml
    """
    from tidegate.status.diagnosis import is_agent_running

    settings = node_config(config)
    if not force and is_agent_running(settings):
        hint = "stop it first, or insist with --force"
        raise CommandError(f"an agent is running with the state directory {settings.state}", hint, Exit.REFUSED)
    removed = _remove(settings)
    if output is Format.JSON:
        print_json({"removed": removed})
        return
    for each in removed:
        print(visible(f"removed {each}"))
    if not removed:
        print("nothing was left")


def _remove(settings: NodeConfig) -> list[str]:
    """Remove everything; return what there was. Raises CommandError if the kernel refuses or something stays."""
    from bpf_redirect.datapath import Datapath
    from bpf_redirect.errors import DatapathError
    from tidegate.kernel import datapath_settings
    from tidegate.status.diagnosis import leftovers

    found = leftovers(settings)
    ended = _end_strays(settings)
    try:
        Datapath(datapath_settings(settings)).cleanup()
    except (DatapathError, OSError) as error:
        raise CommandError(str(error), "run it as root, in the network namespace of the node", Exit.MACHINE) from error
    from tidegate.processes.dns import DnsPlaces

    places = DnsPlaces(settings)
    for socket in (settings.admin_socket, settings.xds_socket, places.control, places.reports):
        socket.unlink(missing_ok=True)
    stayed = leftovers(settings)
    if stayed:
        raise CommandError(f"could not be removed: {', '.join(stayed)}", "is something else using it?", Exit.MACHINE)
    return [*found, *ended]


def _end_strays(settings: NodeConfig) -> list[str]:
    """End what of ours nobody supervises any more, and wait until it is gone."""
    import time

    from tidegate.processes.dns import DnsLauncher
    from tidegate.processes.envoy import EnvoyLauncher
    from tidegate.processes.process import runs

    done: list[str] = []
    for name, launcher in (("Envoy", EnvoyLauncher(settings)), ("DNS proxy", DnsLauncher(settings))):
        ended = launcher.end_strays()
        deadline_s = time.monotonic() + PROCESS_END_SECONDS
        for pid in ended:
            while runs(pid):
                if time.monotonic() > deadline_s:
                    raise CommandError(f"{name} (pid {pid}) does not end", "see `ps`; is it being traced?", Exit.MACHINE)
                time.sleep(0.02)
        launcher.record_path.unlink(missing_ok=True)
        done += [f"{name}, pid {pid}" for pid in ended]
    return done
