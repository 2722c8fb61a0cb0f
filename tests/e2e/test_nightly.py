"""A real night, of which only the shape is asserted; and one on which one engine is slower by planted timings.

The second is measured again, flagged, blamed, told to Prefect, and to a webhook. No verdict depends on this machine.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple
from urllib.request import urlopen

import pytest

from slimline.storage.metrics.connection import fetch
from slimline.storage.metrics.rows import HostRow, MeasurementRow, PredictionRow, RoundRow, RunRow
from slimline.storage.metrics.store import MetricsStore
from tests.command import ROOT, SMOKE_DATA, environment
from tests.e2e.server import free_port, wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.long]

STUDY = (
    f"data: {SMOKE_DATA}"
    + """
baseline: onnx
variants:
  onnx: {label: baseline, recipe: [{step: export-onnx}, {step: engine, name: onnxruntime}]}
  slowed: {recipe: [{step: export-ctranslate2}, {step: engine, name: ctranslate2}]}
measuring: {rounds: 2, speed_samples: 2, pair_seconds: 0, warmup_samples: 1, decoding: {max_new_tokens: 8}}
"""
)
# What eight nights have measured, relative to each other.
NIGHTS = (1.0, 0.98, 1.03, 0.97, 1.02, 0.99, 1.01, 0.98)
SPEEDS = {"onnx": 40.0, "slowed": 60.0}  # samples per second
SLOWDOWN = 0.5
PROGRAMS = Path(__file__).with_name("programs")
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


def run(*command: str | Path, home: Path, api: str) -> subprocess.CompletedProcess[str]:
    settings = {**environment(home), "PREFECT_API_URL": api, "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
    return subprocess.run(
        [sys.executable, *map(str, command)], capture_output=True, text=True, cwd=ROOT, env=settings, check=False
    )


@pytest.fixture(scope="module")
def home(prepared_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = shutil.copytree(prepared_home, tmp_path_factory.mktemp("nightly") / "home")
    (home / "tiny.yaml").write_text(STUDY, "utf8")
    return home


@pytest.fixture(scope="module")
def api(home: Path) -> Iterator[str]:
    """A Prefect server."""
    port = free_port()
    settings = environment(home) | {
        "PREFECT_HOME": str(home / "prefect"),
        "PREFECT_API_URL": "",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{home}/prefect.db",
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
            wait_until(lambda: server.poll() is not None or _answers(f"{url}/health"), "Prefect's server answers")
            assert server.poll() is None, (home / "server.log").read_text()
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
    (home / "block.py").write_text(code.replace("https://hooks.example.org/regressions", url), "utf8")
    made = run(home / "block.py", home=home, api=api)
    assert made.returncode == 0, made.stderr
    automation = home / "automation.yaml"
    automation.write_text(
        EXAMPLE.read_text("utf8").replace("0" * 8 + "-0000" * 3 + "-" + "0" * 12, made.stdout.strip())
    )
    created = run("-m", "prefect", "automation", "create", "--from-file", automation, home=home, api=api)
    assert created.returncode == 0, created.stderr


def plant_history(home: Path) -> None:
    """Eight nights of planted speeds, with an older ctranslate2, in place of the one that was measured."""
    store = MetricsStore(home / "metrics")
    with store.connect() as connection:
        (first,) = fetch(connection, RunRow, "FROM runs")
        others = [fetch(connection, row, f"FROM {row.table}") for row in (HostRow, MeasurementRow, PredictionRow)]
        rounds = fetch(connection, RoundRow, "FROM rounds")
    shutil.rmtree(home / "metrics")
    for number, factor in enumerate(NIGHTS):
        run = {"run": f"past-{number}"}
        for rows in others:
            store.append([row.replace(**run) for row in rows])
        older = {**first.versions, "ctranslate2": "4.0.0"}
        store.append([first.replace(**run, started=first.started + timedelta(seconds=number), versions=older)])
        store.append([plant_speed(row, factor).replace(**run) for row in rounds])
    tonight = {row.variant: plant_speed(row, SLOWDOWN) for row in rounds}
    planted = {name: row.model_dump(mode="json") for name, row in tonight.items()}
    (home / "timings.json").write_text(json.dumps(planted), "utf8")


def plant_speed(row: RoundRow, factor: float) -> RoundRow:
    """The row at its variant's planted speed, which is not the baseline's to that factor; rounds differ by 2 %."""
    speed = SPEEDS[row.variant] * (1.0 if row.variant == "onnx" else factor) * (1 + 0.02 * (row.round - 1))
    ratio = None if row.pair_ratio is None else speed / SPEEDS["onnx"]
    return row.replace(samples_per_s=speed, undisturbed_per_s=speed, pair_ratio=ratio)


@pytest.fixture(scope="module")
def first_night(home: Path, api: str) -> list[dict[str, Any]]:
    """The verdicts of a night that is really measured."""
    finished = run("-m", "slimline.flows.cli", "nightly", home / "tiny.yaml", "--json", home=home, api=api)
    assert finished.returncode == 0, finished.stderr
    verdicts: list[dict[str, Any]] = json.loads(finished.stdout)["verdicts"]
    return verdicts


@pytest.fixture(scope="module")
def night(home: Path, api: str, first_night: list[dict[str, Any]], webhook: tuple[str, list[dict[str, Any]]]) -> Night:
    url, posts = webhook
    plant_history(home)
    automate(home, api, url)
    planted = (PROGRAMS / "nightly_with_planted_timings.py", home / "timings.json")
    finished = run(*planted, "nightly", home / "tiny.yaml", "--json", home=home, api=api)
    assert finished.returncode == 1, finished.stderr
    wait_until(lambda: posts, "the webhook is called")
    return Night(home, finished, posts)


def test_a_real_night_has_a_verdict_on_every_series(first_night: list[dict[str, Any]]) -> None:
    series = {(row["variant"], row["metric"]) for row in first_night}
    assert {("onnx", "samples_per_s"), ("slowed", "speed_ratio"), ("slowed", "es"), ("slowed", "disk_mb")} <= series
    assert {row["verdict"] for row in first_night} == {"new"}


def test_the_slowed_variant_is_a_regression_after_a_re_run(night: Night) -> None:
    row = night.verdicts["slowed", "speed_ratio"]
    assert row["verdict"] == "regression", row["reason"]
    assert row["ratio"] < 0.7 and row["hi"] < 1 and row["history"] == len(NIGHTS)
    assert row["change_point"] == row["run"] and row["rerun"]
    again = f"FROM rounds WHERE list_contains({row['rerun']}, run) AND variant = 'slowed'"
    rounds = MetricsStore(night.home / "metrics").query(f"SELECT count(*) AS n {again}").to_pylist()
    assert rounds[0]["n"] >= 8


def test_its_suspects_are_what_changed(night: Night) -> None:
    suspects = {each["library"]: each for each in night.verdicts["slowed", "speed_ratio"]["suspects"]}
    assert suspects.keys() - {"git_commit"} == {"ctranslate2"}
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
    shown = run(PROGRAMS / "print_artifact.py", "tiny-verdicts", home=night.home, api=api).stdout
    assert "regression of slowed" in shown and "noise floor of" in shown
    assert "8 rounds" in night.finished.stderr and os.linesep in shown
