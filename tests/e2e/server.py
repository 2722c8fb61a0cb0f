"""A `slimline serve` as a user starts it, and what tests do with it over HTTP."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import httpx
import psutil

from slimline.flows.server.discovery import processes_with_mark
from slimline.storage.metrics.store import MetricsStore
from tests.command import ROOT, SMOKE_DATA, environment
from tests.system import PATIENCE_S

# The baseline alone, in the engine that starts fastest: six measuring processes, each long enough to be killed.
STUDY: dict[str, Any] = {
    "name": "tiny",
    "data": SMOKE_DATA,
    "variants": {
        "original": {
            "label": "baseline",
            "recipe": [{"step": "export-onnx"}, {"step": "engine", "name": "onnxruntime"}],
        }
    },
    "measuring": {
        "rounds": 3,
        "speed_samples": 1,
        "pair_seconds": 0,
        "turn_seconds": 5,
        "warmup_samples": 1,
        "threads": 1,
        "decoding": {"max_new_tokens": 4},
    },
}
TINY = {"study": STUDY}
_FINAL = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")

Json = dict[str, Any]
T = TypeVar("T")


def wait_until(find: Callable[[], T], what: str) -> T:
    """What is found, once it is true, or not empty."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        if value := find():
            return value
        time.sleep(0.2)
    raise AssertionError(f"not within {PATIENCE_S} s: {what}")


def free_port() -> int:
    """A port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Server:
    """A running `slimline serve`."""

    def __init__(self, home: Path, *options: str, port: int, **settings: str) -> None:
        self.home, self.port, self.url = home, port, f"http://127.0.0.1:{port}"
        self.output = home.with_suffix(".output")
        with self.output.open("wb") as output:
            command = [sys.executable, "-m", "slimline.flows.cli", "serve", "--port", str(port), *options]
            self.process = subprocess.Popen(
                command, cwd=ROOT, env=environment(home) | settings, stdout=output, stderr=output
            )
        wait_until(lambda: self.process.poll() is not None or "ready: " in self.output.read_text(), "serve is ready")
        assert self.process.poll() is None, self.output.read_text()

    @property
    def token(self) -> str:
        """What its API asks for."""
        token: str = read_record(self.home)["token"]
        return token

    @property
    def headers(self) -> dict[str, str]:
        """What a client with the token sends."""
        return {"Authorization": f"Basic {b64encode(self.token.encode()).decode()}"}

    @property
    def variables(self) -> dict[str, str]:
        """What lets a command on another state directory, or a worker, use it."""
        return {"PREFECT_API_URL": f"{self.url}/api", "PREFECT_API_AUTH_STRING": self.token}

    def ask(self, path: str, **content: Any) -> Any:
        """A POST to the API; GET without content."""
        return self.request("POST" if content else "GET", path, content or None)

    def request(self, method: str, path: str, content: Any = None) -> Any:
        """A call of the API; a server that is being started again, or is busy, is waited for."""

        def answer() -> list[Any]:
            with suppress(httpx.TransportError):
                response = httpx.request(
                    method, f"{self.url}/api/{path}", json=content, headers=self.headers, timeout=60
                )
                if response.status_code != httpx.codes.SERVICE_UNAVAILABLE:
                    return [response.raise_for_status().json() if response.content else None]
            return []

        return wait_until(answer, f"the server answers {path}")[0]

    def deployment(self, name: str) -> Json:
        """A deployment, by its flow's name and its own."""
        found: Json = self.ask(f"deployments/name/{name}")
        return found

    def trigger(self, deployment: str, **parameters: Any) -> str:
        """Start a run of a deployment; its identifier."""
        path = f"deployments/{self.deployment(deployment)['id']}/create_flow_run"
        content = {"parameters": parameters, "state": {"type": "SCHEDULED"}}
        # Asked again for want of an answer, the server creates no second one.
        identifier: str = self.ask(path, idempotency_key=uuid4().hex, **content)["id"]
        return identifier

    def state(self, flow_run: str) -> Json:
        """The state of a flow run."""
        found: Json = self.ask(f"flow_runs/{flow_run}")["state"]
        return found

    def wait_for_end(self, flow_run: str) -> Json:
        """The final state of a flow run."""
        return wait_until(lambda: (s := self.state(flow_run))["type"] in _FINAL and s, f"{flow_run} ends") or {}

    def runs_of(self, deployment: str, *states: str) -> list[Json]:
        """Flow runs of a deployment in these states, the earliest first."""
        chosen = {
            "flow_runs": {
                "deployment_id": {"any_": [self.deployment(deployment)["id"]]},
                "state": {"type": {"any_": list(states)}},
            },
            "sort": "EXPECTED_START_TIME_ASC",
        }
        found: list[Json] = self.ask("flow_runs/filter", **chosen)
        return found

    def rows(self, flow_run: str, table: str = "rounds") -> list[Json]:
        """What a flow run has stored in a table so far."""
        query = f"SELECT * FROM {table} WHERE run LIKE '%{flow_run[-6:]}'"
        if not (self.home / "metrics").exists():
            return []
        found: list[Json] = MetricsStore(self.home / "metrics").query(query).to_pylist()
        return found

    def wait_for_turns(self, flow_run: str, turns: int) -> None:
        """Return once a flow run has stored that many measurements and is at the next."""

        def is_there() -> bool:
            is_measuring = bool(self.processes("slimline.tasks.measurement.probe"))
            if is_measuring and len(self.rows(flow_run)) >= turns:
                return True
            assert self.state(flow_run)["type"] not in _FINAL, f"{flow_run} has ended"
            return False

        wait_until(is_there, "it measures")

    def processes(self, word: str = "", flow_run: str | None = None) -> list[psutil.Process]:
        """What this server has started: all, or those with a word in their command, or of a flow run."""
        found = []
        for process, seen in processes_with_mark(self.home):
            with suppress(psutil.Error):
                of_run = flow_run is None or seen.get("PREFECT__FLOW_RUN_ID") == flow_run
                if of_run and word in " ".join(process.cmdline()):
                    found.append(process)
        return found

    def stop(self, number: int = signal.SIGINT) -> None:
        """As Ctrl-C does; nothing may be left behind."""
        self.process.send_signal(number)
        assert self.process.wait(PATIENCE_S) == 0, self.output.read_text()
        assert not self.processes()
        assert not (self.home / "serve.json").exists()


@contextmanager
def run_server(home: Path, *options: str, **settings: str) -> Iterator[Server]:
    """A server on a free port, with further variables of its environment; stopped in the end if it still runs."""
    server = Server(home, *options, port=free_port(), **settings)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.stop()


def kill_processes(processes: list[psutil.Process]) -> None:
    """kill -9."""
    assert processes
    for process in processes:
        os.kill(process.pid, signal.SIGKILL)


def turn_places(rows: list[Json]) -> list[tuple[int, int]]:
    """The places in the rounds that were measured."""
    return sorted((row["round"], row["position"]) for row in rows)


def read_record(home: Path) -> Json:
    """The record by which other commands find the server."""
    record: Json = json.loads((home / "serve.json").read_text("utf8"))
    return record
