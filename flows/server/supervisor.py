"""`slimline serve`: Prefect's server, its pools and deployments, and this machine's workers, supervised as one."""

from __future__ import annotations

import ipaddress
import os
import platform
import signal
import time
from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING
from urllib.parse import quote

import httpx
import psutil
from filelock import FileLock, Timeout

from slimline.dashboards.access import is_loopback
from slimline.flows.server.child_process import Child
from slimline.flows.server.discovery import (
    LOGIN_PATH,
    MARK,
    ServerRecord,
    processes_with_mark,
    remove_record,
    running_server,
)
from slimline.flows.server.ports import require_free_port
from slimline.storage.child_process import module_command
from slimline.storage.fs import start_time
from slimline.storage.paths import home
from slimline.storage.stores import store_url
from slimline.storage.token import token

if TYPE_CHECKING:
    from slimline.flows.server.recovery import Recovery

_DEPLOYMENTS = Path(__file__).parents[1] / "prefect.yaml"
_TICK_S = 0.2
_RECOVER_EVERY_S = 5.0
_READY_WITHIN_S = 300.0
_SERVER_ENDS_WITHIN_S = 8.0
LOGIN_FILE = "server-token"
# Prefect's settings: what its clients send, and what its server asks for.
_CLIENT_TOKEN, _SERVER_TOKEN = "PREFECT_API_AUTH_STRING", "PREFECT_SERVER_API_AUTH_STRING"


class ServeError(Exception):
    """The server, a worker or the deployments cannot be started; the message says why."""


@dataclass(frozen=True)
class ServeOptions:
    """What to serve.

    Attributes:
        host: Address the server listens on.
        port: Port it listens on.
        pools: The work pools that get a worker here.
        database: SQLAlchemy URL of the server's database; None for SQLite in the state directory.
        connect: URL of a server that runs elsewhere; only workers for it are started.
    """

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
        return self._url_of(_loopback_of(self.host) if _is_any_address(self.host) else self.host)

    @property
    def public_url(self) -> str | None:
        """The same as other machines reach it; None if they cannot."""
        if is_loopback(self.host):
            return None
        return self._url_of(platform.node() if _is_any_address(self.host) else self.host)

    def _url_of(self, host: str) -> str:
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}"


def _is_any_address(host: str) -> bool:
    """Whether a server that listens there listens on every address of this machine."""
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:  # a name
        return False


def _loopback_of(address: str) -> str:
    return "::1" if ":" in address else "127.0.0.1"


def serve(options: ServeOptions) -> ServerRecord | None:
    """Serve until SIGINT, SIGTERM or SIGHUP.

    Returns:
        The server that runs on this state directory already, at once; None after having served.

    Raises:
        ValueError: the address cannot be listened on.
        ServeError: the server does not start or answer, or a deployment is refused.
    """
    stop = _stop_on_signals()
    home().mkdir(parents=True, exist_ok=True)
    with _serve_lock(stop) as is_held:
        if not is_held:
            return running_server()
        _kill(processes_with_mark(home()))  # of a `serve` that was killed
        secret = _token(options)
        # Prefect reads its settings when it is imported. A request that went on waiting for a server that has ended
        # would keep this process from starting it again.
        os.environ |= {"PREFECT_API_URL": f"{options.url}/api", "PREFECT_CLIENT_MAX_RETRIES": "0"}
        os.environ |= {_CLIENT_TOKEN: secret} if secret else {}
        supervisor = Supervisor(options, secret, stop)
        try:
            supervisor.start()
            supervisor.supervise()
        finally:
            supervisor.stop()
    return None


def _token(options: ServeOptions) -> str:
    """What the server asks for: the user's own, or one that is made here once; of a server elsewhere, what is set."""
    if options.connect:
        return os.environ.get(_CLIENT_TOKEN, "")
    return os.environ.get(_SERVER_TOKEN) or token(home() / LOGIN_FILE)


def _stop_on_signals() -> Event:
    """An event that SIGINT and SIGTERM set, even where they were ignored, and SIGHUP, unless `nohup` is used."""
    stop = Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, lambda *_: stop.set())
    return stop


@contextmanager
def _serve_lock(stop: Event) -> Iterator[bool]:
    """Whether this process may serve: no other one does. One that has only just started is waited for."""
    lock = FileLock(home() / "serve.lock")
    while not (lock.is_locked or running_server() or stop.is_set()):
        with suppress(Timeout):
            lock.acquire(timeout=_TICK_S)
    try:
        yield lock.is_locked
    finally:
        lock.release()


class Supervisor:
    """Starts everything in order, starts again what ends, and ends everything in order."""

    def __init__(self, options: ServeOptions, secret: str, stop: Event) -> None:
        """Prepare without starting anything.

        Args:
            options: What to serve.
            secret: The token that the API asks for; empty if one elsewhere asks for none.
            stop: Ends whatever the supervisor does, at any point, once it is set.
        """
        self._options, self._token, self._stop = options, secret, stop
        self._server: Child | None = None
        self._workers = {pool: self._worker(pool) for pool in options.pools}
        self._recovery: Recovery | None = None

    def start(self) -> None:
        """Start server, pools, workers and deployments; returns when all are ready, or early if it is to stop.

        Raises:
            ValueError: as `serve`.
            ServeError: as `serve`.
        """
        url = self._options.url
        if not self._options.connect:
            self._start_server()
        self._wait(lambda: _is_healthy(url), f"{url} does not answer", self._server)
        self._require_access()
        if not self._stop.is_set():
            _print(f"server: ready at {url}")
            ServerRecord(url, os.getpid(), start_time(os.getpid()) or 0, self._token).write()
            self._start_workers()
        if not self._stop.is_set():
            _print(*_addresses(self._options, self._token))

    def supervise(self) -> None:
        """Start again what ends, and recover the flow runs that ended with it, until it is to stop."""
        recover_at = 0.0
        while not self._stop.wait(_TICK_S):
            for child in [*([self._server] if self._server else []), *self._workers.values()]:
                if sentence := child.restart_if_ended():
                    _print(sentence)
            if time.monotonic() >= recover_at:
                self._recover(lambda recovery: recovery.recover_lost_runs())
                recover_at = time.monotonic() + _RECOVER_EVERY_S

    def stop(self) -> None:
        """End the workers and all they started, put their runs back on the schedule, then end the server."""
        remove_record()
        _print("stopping")
        _kill(processes_with_mark(home()), spare=self._server.pid if self._server else None)
        self._recover(lambda recovery: recovery.recover_all_runs())
        if self._server:
            self._server.stop(_SERVER_ENDS_WITHIN_S)
        _kill(processes_with_mark(home()))
        _print("stopped")

    def _require_access(self) -> None:
        """Check that the token is the server's.

        Raises:
            ServeError: it is not.
        """
        if (
            not self._stop.is_set()
            and _status(f"{self._options.url}/api/admin/version", self._token) == httpx.codes.UNAUTHORIZED
        ):
            raise ServeError(
                f"{self._options.url} asks for another token: set {_CLIENT_TOKEN} to what the file {LOGIN_FILE} in its "
                "state directory holds"
            )

    def _start_server(self) -> None:
        host, port = self._options.host, self._options.port
        require_free_port(host, port)
        is_new = not self._options.database and not (home() / "prefect.db").exists()
        _print(f"server: starting{', with a new database: half a minute' if is_new else ''}")
        self._server = self._child("server", "slimline.flows.server.prefect_server", host, str(port))
        self._server.start()

    def _start_workers(self) -> None:
        """Pools, workers and deployments; a server that is only connected to has its deployments already."""
        from prefect.client.orchestration import get_client  # which asks for the server's URL when it is imported

        from slimline.flows.server import registration
        from slimline.flows.server.recovery import Recovery

        client = get_client(sync_client=True)
        self._recovery = Recovery(client, home(), {pool: worker.name for pool, worker in self._workers.items()})
        _print(f"pools: {', '.join(registration.create_pools(client, self._options.pools))}")
        started = datetime.now(UTC)
        for worker in self._workers.values():
            worker.start()
        if not self._options.connect:
            paused = registration.paused_schedules(client)
            self._deploy()
            registration.pause_schedules(client, paused)
        for pool, worker in self._workers.items():
            is_up = partial(registration.has_heartbeat, client, pool, worker.name, started)
            self._wait(is_up, f"worker {worker.name} sends no heartbeat", worker)
            _print(f"worker {worker.name}: takes runs from pool {pool}")

    def _deploy(self) -> None:
        arguments = ("--no-prompt", "deploy", "--all", "--prefect-file", str(_DEPLOYMENTS))
        deploy = self._child("deployments", "prefect", *arguments)
        deploy.start()
        self._wait(lambda: not deploy.is_alive(), "the deployments are not registered", None)
        if deploy.exit_status:
            raise ServeError(f"a deployment is refused; the end of {deploy.log}:\n{deploy.log_tail()}")

    def _worker(self, pool: str) -> Child:
        name = f"{platform.node()}-{pool}"
        return self._child(name, "prefect", "worker", "start", "--type", "process", "--pool", pool, "--name", name)

    def _child(self, name: str, module: str, *arguments: str) -> Child:
        log = home() / "logs" / f"{name}.log"
        return Child(name, module_command(module, *arguments), self._environment(), log)

    def _environment(self) -> dict[str, str]:
        """What the server, the workers and the flow runs see."""
        options = self._options
        return {
            "PREFECT_LOGGING_EXTRA_LOGGERS": "slimline",  # the log of a run says, for instance, what it waits for
            **os.environ,
            MARK: str(home()),
            "PYTHONSAFEPATH": "1",  # what `-P` does for our own processes, for those that Prefect starts
            "SLIMLINE_HOME": str(home()),  # absolute; flow runs have a working directory of their own
            "SLIMLINE_STORE": store_url(),
            "PREFECT_API_URL": f"{options.url}/api",
            _CLIENT_TOKEN: self._token,
            _SERVER_TOKEN: self._token,
            "PREFECT_SERVER_UI_API_URL": "/api",  # of the address that the browser has opened
            "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": options.url,
            "PREFECT_CLIENT_MAX_RETRIES": "10",  # after 2, 4, 8, ... seconds: a killed server is back by then
            "PREFECT_LOGGING_LEVEL": "INFO",  # the UI shows the log of a run
            "PREFECT_WORKER_QUERY_SECONDS": "2",
            "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
            # In memory, the default, the server forgets when it is killed who holds a deployment's concurrency limit:
            # nightly's would stay taken for ever.
            "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
            "PREFECT_HOME": str(home() / "prefect"),  # where these leases are: they belong to one database
            **({"PREFECT_SERVER_DATABASE_CONNECTION_URL": options.database} if options.database else {}),
        }

    def _wait(self, is_done: Callable[[], bool], problem: str, child: Child | None) -> None:
        """Wait until it is done, or everything is to stop.

        Raises:
            ServeError: the child that it depends on has ended, or it takes too long.
        """
        deadline = time.monotonic() + _READY_WITHIN_S
        while not self._stop.wait(_TICK_S) and not is_done():
            if child is not None and not child.is_alive():
                raise ServeError(f"{child.name} ended at its start; the end of {child.log}:\n{child.log_tail()}")
            if time.monotonic() > deadline:
                raise ServeError(f"{problem} within {_READY_WITHIN_S:.0f} s")

    def _recover(self, attempt: Callable[[Recovery], list[str]]) -> None:
        from prefect.exceptions import PrefectException

        # A server that does not answer is being started again; what could not be recovered is so at the next attempt.
        with suppress(httpx.HTTPError, PrefectException):
            for sentence in attempt(self._recovery) if self._recovery else ():
                _print(sentence)


def _print(*lines: str) -> None:
    with suppress(OSError):  # the terminal may be gone, and what runs must be ended all the same
        for line in lines:
            print(line, flush=True)


def _addresses(options: ServeOptions, secret: str) -> Iterator[str]:
    if options.connect:
        yield f"ready: workers for {options.url}"
    else:
        yield f"ready: the UI is at {options.url}, the API at {options.url}/api"
        yield f"log in: open {options.url}{LOGIN_PATH}#{quote(secret, safe='')}"
        if options.public_url:
            yield f"a worker elsewhere: slimline serve --connect {options.public_url}/api --pools laptop"
            yield f"with {_CLIENT_TOKEN} set to what {home() / LOGIN_FILE} holds"
        else:
            yield "only this machine reaches it; for workers elsewhere: slimline serve --host 0.0.0.0"
    yield "Ctrl-C stops everything"


def _is_healthy(url: str) -> bool:
    return _status(f"{url}/api/health") == httpx.codes.OK


def _status(url: str, secret: str = "") -> int | None:
    """The status of what a GET answers; None without an answer."""
    with suppress(httpx.HTTPError):
        # As Prefect's clients send it: base64 of the whole setting.
        headers = {"Authorization": f"Basic {b64encode(secret.encode()).decode()}"} if secret else {}
        return httpx.get(url, headers=headers, timeout=5).status_code
    return None


def _kill(marked_processes: Iterable[tuple[psutil.Process, dict[str, str]]], spare: int | None = None) -> None:
    """Kill processes; flows and steps are made for that."""
    processes = [process for process, _ in marked_processes if process.pid != spare]
    for process in processes:
        with suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(processes, timeout=5)
