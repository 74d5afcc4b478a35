"""The supervisor: ``tidegate run`` on one machine.

Owns: which processes a node has, in what order they start and stop, and how soon one that died is started again. It does
nothing else, so that there is little in it that could fail. On Kubernetes the same processes are containers and the
kubelet does this work.

Fates, deliberately different:

- Envoy and the DNS proxy are detached: when the supervisor or the agent is killed, requests and questions go on, and the next
  ``tidegate run`` adopts them.
- The agent dies with the supervisor (it asks the kernel for that), so there is never a second one.
- A clean stop (SIGTERM, SIGINT) ends all three. The BPF programs stay: L3/L4 policy goes on, redirected flows are closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Protocol

import structlog

from tidegate.config.node import NodeConfig
from tidegate.processes.dns import DnsLauncher
from tidegate.processes.envoy import EnvoyLauncher
from tidegate.processes.process import DetachedProcess

_log = structlog.get_logger()

RESTART_DELAY_S_MIN = 0.05
RESTART_DELAY_S_MAX = 5.0
"""A process that dies again and again is started less and less often, up to this."""
STEADY_S = 10.0
"""A process that ran this long has earned a fresh start: its delay is the minimum again."""
ENVOY_STOP_TIMEOUT_S = 5.0
DNSPROXY_STOP_TIMEOUT_S = 5.0
AGENT_STOP_TIMEOUT_S = 10.0
AGENT_FATAL_EXITS = frozenset({2, 3, 5})
"""Exit codes of the agent that a restart can't mend (usage, configuration, what the machine lacks): see cli/exits.py."""


SUPERVISOR_PID = "TIDEGATE_SUPERVISOR_PID"
"""Set in the agent's environment: it then ends with that process."""


class Launcher(Protocol):
    """Starts a detached process, or finds the one that an earlier run started."""

    @property
    def log_path(self) -> Path:
        """Where the process writes."""

    def start_or_adopt(self) -> DetachedProcess:
        """Return the running process. Raises ProcessError."""


class _Backoff:
    """How long to wait before the next start."""

    def __init__(self) -> None:
        self._delay_s = RESTART_DELAY_S_MIN

    def after(self, ran_s: float) -> float:
        delay_s = RESTART_DELAY_S_MIN if ran_s >= STEADY_S else self._delay_s
        self._delay_s = min(delay_s * 2, RESTART_DELAY_S_MAX)
        return delay_s


class Supervisor:
    """Runs the node's processes until told to stop. One use."""

    def __init__(self, config: NodeConfig, envoy: EnvoyLauncher, dnsproxy: DnsLauncher) -> None:
        self._config = config
        self._envoy = envoy
        self._dnsproxy = dnsproxy
        self._stop = asyncio.Event()
        self._exit_code = 0

    async def run(self) -> int:
        """Run until SIGTERM or SIGINT, or until the agent says that it can't run here; return the exit code."""
        loop = asyncio.get_running_loop()
        for signal_number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(signal_number, self._stop.set)
        async with asyncio.TaskGroup() as tasks:
            # First: the agent tells Envoy of the module that Envoy's start puts in its place.
            tasks.create_task(self._keep("envoy", lambda: self._run_detached(self._envoy, ENVOY_STOP_TIMEOUT_S)))
            tasks.create_task(self._keep("dnsproxy", lambda: self._run_detached(self._dnsproxy, DNSPROXY_STOP_TIMEOUT_S)))
            tasks.create_task(self._keep("agent", self._run_agent))
        return self._exit_code

    async def _keep(self, name: str, run_once: Callable[[], Awaitable[str]]) -> None:
        backoff = _Backoff()
        while not self._stop.is_set():
            started_s = time.monotonic()
            ending = await run_once()
            if self._stop.is_set():
                break
            delay_s = backoff.after(time.monotonic() - started_s)
            _log.warning("process_ended", process=name, ending=ending, restart_in_s=delay_s)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), delay_s)

    async def _run_detached(self, launcher: Launcher, stop_timeout_s: float) -> str:
        process = launcher.start_or_adopt()
        ended = asyncio.ensure_future(process.wait())
        stopped = asyncio.ensure_future(self._stop.wait())
        await asyncio.wait({ended, stopped}, return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        if not ended.done():
            ended.cancel()
            await process.stop(stop_timeout_s)
            return "stopped"
        return f"wait status {ended.result()}; its log: {launcher.log_path}"

    async def _run_agent(self) -> str:
        agent = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tidegate.agent",
            str(self._config.path),
            stdin=asyncio.subprocess.DEVNULL,
            env={**os.environ, SUPERVISOR_PID: str(os.getpid())},
        )
        ended = asyncio.ensure_future(agent.wait())
        stopped = asyncio.ensure_future(self._stop.wait())
        await asyncio.wait({ended, stopped}, return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        if not ended.done():
            agent.terminate()
            try:
                await asyncio.wait_for(ended, AGENT_STOP_TIMEOUT_S)
            except TimeoutError:
                agent.kill()
                await agent.wait()
            return "stopped"
        if ended.result() in AGENT_FATAL_EXITS:
            self._exit_code = ended.result()
            self._stop.set()
        return f"exit code {ended.result()}"


def run(config: NodeConfig) -> int:
    """Run the node's processes in the foreground; return the exit code."""
    config.state.mkdir(parents=True, exist_ok=True, mode=0o700)
    return asyncio.run(Supervisor(config, EnvoyLauncher(config), DnsLauncher(config)).run())
