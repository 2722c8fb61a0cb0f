"""`slimline serve`: Prefect's server, its pools and deployments, and this machine's workers, supervised as one."""

from __future__ import annotations

import os
import platform
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING

import httpx
import psutil
from filelock import FileLock, Timeout

from slimline.flows.server.child_process import Child
from slimline.flows.server.discovery import MARK, Served, marked, served, withdraw
from slimline.flows.server.ports import require_free
from slimline.storage.child_process import module_command
from slimline.storage.paths import home
from slimline.storage.stores import store_url

if TYPE_CHECKING:
    from slimline.flows.server.recovery import Rescue

_DEPLOYMENTS = Path(__file__).parents[1] / "prefect.yaml"
_TICK_S = 0.2
_RESCUE_EVERY_S = 5.0
_READY_WITHIN_S = 300.0
_SERVER_ENDS_WITHIN_S = 8.0


class ServeError(Exception):
    """It cannot be served, and why."""


@dataclass(frozen=True)
class Serving:
    """What to serve: where the server listens, the pools with a worker here, and whose database or server to use."""

    host: str
    port: int
    pools: tuple[str, ...]
    database: str | None = None
    connect: str | None = None

    @property
    def url(self) -> str:
        """The server's URL as this machine reaches it, without a path."""
        if self.connect:
            return self.connect.rstrip("/").removesuffix("/api")
        return self._at({"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host))  # noqa: S104 - not bound

    @property
    def public_url(self) -> str | None:
        """The same as other machines reach it; None if they cannot."""
        if self.host in ("localhost", "::1") or self.host.startswith("127."):
            return None
        return self._at(platform.node() if self.host in ("0.0.0.0", "::") else self.host)  # noqa: S104 - not bound

    def _at(self, host: str) -> str:
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}"


def serve(what: Serving) -> Served | None:
    """Serve until SIGINT, SIGTERM or SIGHUP; what is served already on this home is returned at once.

    Raises:
        ValueError: the address cannot be listened on.
        ServeError: the server does not start or answer, or a deployment is refused.
    """
    home().mkdir(parents=True, exist_ok=True)
    with _alone() as is_alone:
        if not is_alone:
            return served()
        _end(marked(home()))  # what a killed `serve` has left
        stop = Event()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # as nohup has it
                signal.signal(number, lambda *_: stop.set())
        # Prefect reads its settings when it is imported. A request that went on waiting for a dead server would keep
        # this process from starting it again.
        os.environ |= {"PREFECT_API_URL": f"{what.url}/api", "PREFECT_CLIENT_MAX_RETRIES": "0"}
        supervisor = Supervisor(what, stop)
        try:
            supervisor.up()
            supervisor.keep()
        finally:
            supervisor.down()
    return None


@contextmanager
def _alone() -> Iterator[bool]:
    """Whether nothing else serves this home; if something is about to, that is waited for."""
    lock = FileLock(home() / "serve.lock")
    while not lock.is_locked and not served():
        with suppress(Timeout):
            lock.acquire(timeout=_TICK_S)
    try:
        yield lock.is_locked
    finally:
        lock.release()


class Supervisor:
    """Brings everything up in order, keeps it up, and takes it down in order."""

    def __init__(self, what: Serving, stop: Event) -> None:
        """Nothing runs until `up`; `stop` ends it at any point."""
        self._what, self._stop = what, stop
        self._server: Child | None = None
        self._workers = {pool: self._worker(pool) for pool in what.pools}
        self._rescue: Rescue | None = None

    def up(self) -> None:
        """Server, pools, workers, deployments; returns when all are ready, or early if it shall stop.

        Raises:
            ServeError: see `serve`.
        """
        if not self._what.connect:
            self._start_server()
        self._wait(lambda: _answers(self._what.url), f"{self._what.url} does not answer", self._server)
        if not self._stop.is_set():
            _say(f"server: ready at {self._what.url}")
            me = psutil.Process()
            Served(self._what.url, me.pid, me.create_time()).publish()
            self._fill()
        if not self._stop.is_set():
            _say(*_addresses(self._what))

    def keep(self) -> None:
        """Start again what dies, and rescue the flow runs that died with it, until it shall stop."""
        rescue_at = 0.0
        while not self._stop.wait(_TICK_S):
            for child in [*([self._server] if self._server else []), *self._workers.values()]:
                if told := child.keep():
                    _say(told)
            if time.monotonic() >= rescue_at:
                self._rescuing(lambda rescue: rescue.look())
                rescue_at = time.monotonic() + _RESCUE_EVERY_S

    def down(self) -> None:
        """End the workers and all they started, put their runs back on the schedule, then end the server."""
        withdraw()
        _say("stopping")
        _end(marked(home()), spare=self._server.pid if self._server else None)
        self._rescuing(lambda rescue: rescue.interrupt())
        if self._server:
            self._server.end(_SERVER_ENDS_WITHIN_S)
        _end(marked(home()))
        _say("stopped")

    def _start_server(self) -> None:
        what = self._what
        require_free(what.host, what.port)
        is_new = not what.database and not (home() / "prefect.db").exists()
        _say(f"server: starting{', with a new database: half a minute' if is_new else ''}")
        self._server = self._child(
            "server", "slimline.flows.server.prefect_server", "--host", what.host, "--port", str(what.port)
        )
        self._server.start()

    def _fill(self) -> None:
        """Pools, workers and deployments; a server that is only connected to has its deployments already."""
        from prefect.client.orchestration import get_client  # which asks for the server's URL when it is imported

        from slimline.flows.server import registration
        from slimline.flows.server.recovery import Rescue

        client = get_client(sync_client=True)
        self._rescue = Rescue(client, home(), {pool: worker.name for pool, worker in self._workers.items()})
        _say(f"pools: {', '.join(registration.create_pools(client, self._what.pools))}")
        started = datetime.now(UTC)
        for worker in self._workers.values():
            worker.start()
        if not self._what.connect:
            paused = registration.paused_schedules(client)
            self._deploy()
            registration.pause(client, paused)
        for pool, worker in self._workers.items():
            is_up = partial(registration.reports, client, pool, worker.name, started)
            self._wait(is_up, f"worker {worker.name} does not report", worker)
            _say(f"worker {worker.name}: takes runs from pool {pool}")

    def _deploy(self) -> None:
        words = ("prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(_DEPLOYMENTS))
        deploying = self._child("deployments", *words)
        deploying.start()
        self._wait(lambda: not deploying.is_alive(), "deploying takes too long", None)
        if deploying.status:
            raise ServeError(f"a deployment is refused; the end of {deploying.log}:\n{deploying.last_words()}")

    def _worker(self, pool: str) -> Child:
        name = f"{platform.node()}-{pool}"
        words = ("prefect", "worker", "start", "--type", "process", "--pool", pool, "--name", name)
        return self._child(name, *words)

    def _child(self, name: str, module: str, *words: str) -> Child:
        log = home() / "logs" / f"{name}.log"
        return Child(name, module_command(module, *words), self._environment(), log)

    def _environment(self) -> dict[str, str]:
        """What the server, the workers and the flow runs see."""
        return {
            **os.environ,
            MARK: str(home()),
            "PYTHONSAFEPATH": "1",  # what `-P` does for our own processes, for those that Prefect starts
            "SLIMLINE_HOME": str(home()),  # relative to here; flow runs have a directory of their own
            "SLIMLINE_STORE": store_url(),
            "PREFECT_API_URL": f"{self._what.url}/api",
            "PREFECT_SERVER_UI_API_URL": f"{self._what.public_url or self._what.url}/api",  # whom the browser asks
            "PREFECT_CLIENT_MAX_RETRIES": "10",  # after 2, 4, 8, ... seconds: a killed server is back by then
            "PREFECT_LOGGING_LEVEL": "INFO",  # what a run says is to be read in the UI
            "PREFECT_WORKER_QUERY_SECONDS": "2",
            "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
            # In memory, where Prefect has them else, slots that are held when the server is killed are held for ever.
            "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
            "PREFECT_HOME": str(home() / "prefect"),  # where the leases are: they belong to one database
            **({"PREFECT_SERVER_DATABASE_CONNECTION_URL": self._what.database} if self._what.database else {}),
        }

    def _wait(self, is_done: Callable[[], bool], problem: str, child: Child | None) -> None:
        """Until it is done, or everything shall stop; a child that ends meanwhile is the problem, too."""
        deadline = time.monotonic() + _READY_WITHIN_S
        while not self._stop.wait(_TICK_S) and not is_done():
            if child is not None and not child.is_alive():
                raise ServeError(f"{child.name} ended at its start; the end of {child.log}:\n{child.last_words()}")
            if time.monotonic() > deadline:
                raise ServeError(f"{problem} within {_READY_WITHIN_S:.0f} s")

    def _rescuing(self, attempt: Callable[[Rescue], list[str]]) -> None:
        from prefect.exceptions import PrefectException

        # A server that does not answer is being started again; what could not be rescued is so at the next look.
        with suppress(httpx.HTTPError, PrefectException):
            for told in attempt(self._rescue) if self._rescue else ():
                _say(told)


def _say(*lines: str) -> None:
    with suppress(OSError):  # the terminal may be gone, and what runs must be ended all the same
        for line in lines:
            print(line, flush=True)


def _addresses(what: Serving) -> Iterator[str]:
    if what.connect:
        yield f"ready: workers for {what.url}"
    else:
        yield f"ready: the UI is at {what.url}, the API at {what.url}/api"
        if what.public_url:
            yield f"a worker elsewhere: slimline serve --connect {what.public_url}/api --pools laptop"
        else:
            yield "only this machine reaches it; for workers elsewhere: slimline serve --host 0.0.0.0"
    yield "Ctrl-C stops everything"


def _answers(url: str) -> bool:
    with suppress(httpx.HTTPError):
        return httpx.get(f"{url}/api/health", timeout=5).is_success
    return False


def _end(marked_processes: Iterable[tuple[psutil.Process, dict[str, str]]], spare: int | None = None) -> None:
    """Kill them; what they leave half-done is made for that."""
    ending = [process for process, _ in marked_processes if process.pid != spare]
    for process in ending:
        with suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(ending, timeout=5)
