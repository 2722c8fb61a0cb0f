"""A night on which one engine really got slower: measured again, flagged, blamed, told to Prefect, and to a webhook."""

import json
import os
import re
import shlex
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple
from urllib.request import urlopen

import pytest

from slimline.storage.metrics.store import MetricsStore
from tests.command import ROOT, copy_source, environment

pytestmark = [pytest.mark.e2e, pytest.mark.operations]

STUDY = """
data: {train_files: 10, dev_files: 2, samples: 6}
baseline: onnx
variants:
  onnx: {label: baseline, recipe: [{step: export-onnx}, {step: engine, name: onnxruntime}]}
  slowed: {recipe: [{step: export-ctranslate2}, {step: engine, name: ctranslate2}]}
measuring: {rounds: 2, speed_samples: 2, warmup_samples: 1, decoding: {max_new_tokens: 8}}
"""
# What seven more nights measured, relative to the first run here: apart enough that a busy test machine is no news.
NIGHTS = (0.88, 1.10, 0.97, 1.14, 0.92, 1.04, 0.86)
SPEED = ("samples_per_s", "undisturbed_per_s")
SPEEDS = "SELECT variant, median(samples_per_s) AS speed FROM rounds GROUP BY variant"
EXAMPLE = ROOT / "docs/examples/regression-automation.yaml"
NO_BLOCK = "00000000-0000-0000-0000-000000000000"
GUIDE = (ROOT / "docs/nightly.md").read_text("utf8")

COMMANDS = [
    line
    for block in re.findall(r"```sh\n(.*?)```", GUIDE, re.DOTALL)
    for line in block.splitlines()
    if line != "slimline nightly"  # of the default study; here it is of a tiny one
]


class Night(NamedTuple):
    """The night on which it got slower: what the command did, and what reached the webhook."""

    home: Path
    finished: subprocess.CompletedProcess[str]
    posts: list[dict[str, Any]]

    @property
    def verdicts(self) -> dict[tuple[str, str], dict[str, Any]]:
        rows = json.loads(self.finished.stdout)["verdicts"]
        return {(row["variant"], row["metric"]): row for row in rows}


def run(*command: str | Path, home: Path, api: str, source: Path | None = None) -> subprocess.CompletedProcess[str]:
    settings = {**environment(home), "PREFECT_API_URL": api, "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
    if source:
        settings["PYTHONPATH"] = str(source)
    return subprocess.run(
        [sys.executable, *map(str, command)], capture_output=True, text=True, cwd=ROOT, env=settings, check=False
    )


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("nightly")
    (home / "tiny.yaml").write_text(STUDY, "utf8")
    return home


@pytest.fixture(scope="module")
def api(home: Path) -> Iterator[str]:
    """A Prefect server."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = environment(home) | {
        "PREFECT_HOME": str(home / "prefect"),
        "PREFECT_API_URL": "",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{home}/server.db",
    }
    with (home / "server.log").open("w") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "prefect", "server", "start", "--port", str(port)],
            env={name: value for name, value in settings.items() if value},
            stdout=log,
            stderr=log,
        )
        try:
            url = f"http://127.0.0.1:{port}/api"
            while not _answers(f"{url}/health"):
                assert server.poll() is None, (home / "server.log").read_text()
                time.sleep(0.2)
            yield url
        finally:
            server.terminate()
            server.wait()


def _answers(url: str) -> bool:
    try:
        with urlopen(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


@pytest.fixture(scope="module")
def webhook() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """An HTTP server on this machine, and what was posted to it."""
    posts: list[dict[str, Any]] = []

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            posts.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Receiver)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/regression", posts
    server.shutdown()
    thread.join()
    server.server_close()


def automate(home: Path, api: str, url: str) -> None:
    """What docs/nightly.md says: a block, then the example with its identifier."""
    (code,) = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)
    made = run("-c", code.replace("https://hooks.example.org/regressions", url), home=home, api=api)
    assert made.returncode == 0, made.stderr
    automation = home / "automation.yaml"
    automation.write_text(
        EXAMPLE.read_text("utf8").replace("0" * 8 + "-0000" * 3 + "-" + "0" * 12, made.stdout.strip())
    )
    created = run("-m", "prefect", "automation", "create", "--from-file", automation, home=home, api=api)
    assert created.returncode == 0, created.stderr


def remember(home: Path) -> None:
    """Seven nights after the first run here, as fast as it but for a noise of their own, with an older ctranslate2."""
    store = MetricsStore(home / "metrics")
    (first,) = store.query("FROM runs").to_pylist()
    speeds = {row["variant"]: row["speed"] for row in store.query(SPEEDS).to_pylist()}
    for number, factor in enumerate(NIGHTS, 1):
        before = {"run": f"past-{number}", "started": first["started"] + timedelta(seconds=number)}
        versions = json.loads(first["versions"]) | {"ctranslate2": "4.0.0"}
        store.append("runs", [first | before | {"versions": versions}])
        for table in ("hosts", "rounds", "measurements", "predictions"):
            rows = store.query(f"FROM {table} WHERE run = '{first['run']}'").to_pylist()
            if table == "rounds":
                noisy = [_noisy(row, speeds, factor) for row in rows]
                rows = [row | dict.fromkeys(SPEED, speed) for row, speed in zip(rows, noisy, strict=True)]
            store.append(table, [row | {"run": before["run"]} for row in rows])


def _noisy(row: dict[str, Any], speeds: dict[str, float], factor: float) -> float:
    machine = factor**8  # how fast the machine was that night, which a ratio to the baseline does not see
    return speeds[row["variant"]] * machine * (1.0 if row["variant"] == "onnx" else factor) * (1 + 0.02 * row["round"])


@pytest.fixture(scope="module")
def night(
    home: Path, api: str, webhook: tuple[str, list[dict[str, Any]]], tmp_path_factory: pytest.TempPathFactory
) -> Night:
    url, posts = webhook
    first = run("-m", "slimline.flows.cli", "nightly", home / "tiny.yaml", "--json", home=home, api=api)
    assert first.returncode == 0, first.stderr
    assert {row["verdict"] for row in json.loads(first.stdout)["verdicts"]} == {"new"}
    remember(home)
    automate(home, api, url)
    source = slowed_source(tmp_path_factory.mktemp("source"))
    second = run("-m", "slimline.flows.cli", "nightly", home / "tiny.yaml", "--json", home=home, api=api, source=source)
    assert second.returncode == 1, second.stderr
    for _ in range(150):
        if posts:
            break
        time.sleep(0.2)
    return Night(home, second, posts)


def slowed_source(directory: Path) -> Path:
    """slimline's source, in which CTranslate2 takes a nap before every completion."""
    copy = copy_source(directory)
    engine = copy / "slimline/tasks/engines/ctranslate2_engine.py"
    code = engine.read_text("utf8")
    assert code.count("        begin = perf_counter()\n") == 1
    napping = "        begin = perf_counter()\n        __import__('time').sleep(0.6)\n"
    engine.write_text(code.replace("        begin = perf_counter()\n", napping), "utf8")
    return copy


def test_the_slowed_variant_is_a_regression_after_a_re_run(night: Night) -> None:
    row = night.verdicts["slowed", "speed_ratio"]
    assert row["verdict"] == "regression", row["reason"]
    assert row["ratio"] < 0.7 and row["hi"] < 1 and row["history"] == len(NIGHTS) + 1
    assert row["change_point"] == row["run"] and row["rerun"]
    again = f"FROM rounds WHERE list_contains({row['rerun']}, run) AND variant = 'slowed'"
    rounds = MetricsStore(night.home / "metrics").query(f"SELECT count(*) AS n {again}").to_pylist()
    assert rounds[0]["n"] >= 8


def test_its_suspects_are_what_changed(night: Night) -> None:
    suspects = {each["library"]: each for each in night.verdicts["slowed", "speed_ratio"]["suspects"]}
    assert suspects.keys() - {"git_commit"} == {"ctranslate2"}  # the copied source is in no repository
    assert suspects["ctranslate2"] == {"library": "ctranslate2", "before": "4.0.0", "after": version("ctranslate2")}


def test_nothing_else_has_regressed(night: Night) -> None:
    others = {key: row["verdict"] for key, row in night.verdicts.items() if row["verdict"] == "regression"}
    assert others == {("slowed", "speed_ratio"): "regression"}
    for metric in ("es", "em", "disk_mb"):
        assert night.verdicts["slowed", metric]["verdict"] == "ok"


def test_regressions_lists_it(night: Night, api: str) -> None:
    listed = run("-m", "slimline.flows.cli", "regressions", "--json", home=night.home, api=api)
    assert [(row["variant"], row["metric"], row["state"]) for row in json.loads(listed.stdout)] == [
        ("slowed", "speed_ratio", "open")
    ]
    assert "slowed" in run("-m", "slimline.flows.cli", "regressions", home=night.home, api=api).stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_guide_runs(night: Night, api: str, command: str) -> None:
    finished = run("-m", "slimline.flows.cli", *shlex.split(command)[1:], home=night.home, api=api)
    assert finished.returncode == 0 and finished.stdout


def test_the_webhook_was_called(night: Night) -> None:
    (post,) = night.posts
    assert (post["variant"], post["metric"]) == ("slowed", "speed_ratio")
    assert post["ratio"] < 0.7 and "confirmed by" in post["text"]


def test_the_verdicts_are_an_artifact(night: Night, api: str) -> None:
    code = "from prefect.artifacts import Artifact; print(Artifact.get('tiny-verdicts').data)"
    shown = run("-c", code, home=night.home, api=api).stdout
    assert "regression of slowed" in shown and "noise floor of" in shown
    assert "8 rounds" in night.finished.stderr and os.linesep in shown
