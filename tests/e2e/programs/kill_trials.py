"""Kill a process at a random moment while it works on a store, many times; print what was found, as JSON.

    kill_trials.py publish|append|compact|gc|push URL TRIALS

Each trial is a fork of this process, which has imported everything before: it starts at once. So nothing here opens a
store before the last fork.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import fsspec.implementations.memory  # noqa: F401 - imported before the forks
import pyarrow.parquet  # noqa: F401
import s3fs  # noqa: F401

import slimline.storage.artifacts.remote  # noqa: F401
from slimline.storage.artifacts.store import ArtifactRef, ArtifactStore, Provenance
from slimline.storage.metrics.rows import PredictionRow
from slimline.storage.metrics.store import MetricsStore

MADE = Provenance(step={"step": "data"}, inputs=[], versions={}, host="h", created=datetime.now(UTC), seconds=0)
AT_ONCE = timedelta(0)
LONGEST_S = 6.0  # the first second goes by before a process does something
FILES, FILE_BYTES = 4, 150_000
SOURCE = Path(tempfile.gettempdir()) / "source"  # from where artifacts are pushed

Announce = Callable[[str], None]


def publish_one(store: ArtifactStore, content: str, inputs: tuple[ArtifactRef, ...] = ()) -> ArtifactRef:
    with store.stage() as directory:
        for number in range(FILES):
            (directory / f"f{number}").write_bytes(f"{content} {number} ".encode() * (FILE_BYTES // 20))
        return store.publish(directory, "model", MADE.model_copy(update={"inputs": list(inputs)}))


def append_rows(metrics: MetricsStore, who: str) -> None:
    metrics.append(
        [
            PredictionRow(run=who, host="h", variant="v", sample=n, target="", prediction="", es=1, em=False)
            for n in range(3)
        ]
    )


def publish(url: str, trial: int, announce: Announce) -> None:
    store = ArtifactStore(f"{url}/artifacts")
    for number in range(1000):
        announce(publish_one(store, f"trial {trial} number {number}").digest)


def append(url: str, trial: int, announce: Announce) -> None:
    metrics = MetricsStore(f"{url}/metrics")
    for number in range(1000):
        append_rows(metrics, f"trial-{trial}-{number}")
        announce(f"trial-{trial}-{number}")


def compact(url: str, trial: int, announce: Announce) -> None:
    metrics = MetricsStore(f"{url}/metrics")
    for number in range(1000):
        append_rows(metrics, f"trial-{trial}-{number}")
        announce(f"trial-{trial}-{number}")
        metrics.compact("predictions", AT_ONCE)


def gc(url: str, trial: int, announce: Announce) -> None:
    store = ArtifactStore(f"{url}/artifacts")
    kept = publish_one(store, "kept")
    child = publish_one(store, "kept as well", (kept,))
    announce(child.digest)
    announce(kept.digest)
    for number in range(1000):
        publish_one(store, f"trial {trial} number {number}")
        store.gc([child])


def push(url: str, trial: int, announce: Announce) -> None:
    source, target = ArtifactStore(SOURCE), ArtifactStore(f"{url}/artifacts")
    for number in range(1000):
        made = publish_one(source, f"trial {trial} number {number}")
        for ref, _ in source.send([made], target):
            announce(ref.digest)


def push_the_rest(url: str) -> set[str]:
    """Go on where pushes were cut off; what has to be there then."""
    source = ArtifactStore(SOURCE)
    return {ref.digest for ref, _ in source.send(source.list(), ArtifactStore(f"{url}/artifacts"))}


def run_killed(
    work: Callable[[str, int, Announce], None], url: str, trial: int, delay: float
) -> tuple[bool, list[str]]:
    """Whether the process had to be killed, and what it had announced as done."""
    heard, told = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(heard)
        try:
            os.write(told, b"\n")
            work(url, trial, lambda text: os.write(told, f"{text}\n".encode()) and None)
        finally:
            os._exit(0)
    os.close(told)
    os.read(heard, 1)
    time.sleep(delay)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    with os.fdopen(heard, "rb") as file:
        announced = file.read().decode().split()
    return os.WIFSIGNALED(status), announced


def check(operation: str, url: str, announced: set[str]) -> dict[str, Any]:
    """What the stores say in the end: how much there is, what is missing, what is wrong."""
    store, metrics = ArtifactStore(f"{url}/artifacts"), MetricsStore(f"{url}/metrics")
    if operation in ("append", "compact"):
        rows = metrics.query(
            "SELECT run, count(*) AS n, count(DISTINCT sample) AS d FROM predictions GROUP BY run"
        ).to_pylist()
        runs = {row["run"] for row in rows}
        wrong = [row["run"] for row in rows if (row["n"], row["d"]) != (3, 3)]
        problems = list(metrics.inspect(again=True).problems.values())
        return {"there": len(runs), "missing": sorted(announced - runs), "wrong": wrong, "problems": problems}
    checked = dict(store.verify_all())
    digests = {ref.digest for ref in checked}
    problems = [problem for problem in checked.values() if problem]
    return {"there": len(digests), "missing": sorted(announced - digests), "wrong": [], "problems": problems}


def main() -> None:
    operation, url, trials = sys.argv[1], sys.argv[2], int(sys.argv[3])
    work = {"publish": publish, "append": append, "compact": compact, "gc": gc, "push": push}[operation]
    draw = random.Random(f"{operation} {url.partition(':')[0]}")
    announced: set[str] = set()
    killed = 0
    for trial in range(trials):
        was_killed, done = run_killed(work, url, trial, draw.uniform(0.0, LONGEST_S))
        killed += was_killed
        announced |= set(done)
    if operation == "push":
        announced |= push_the_rest(url)
    print(json.dumps({"killed": killed, "announced": len(announced), **check(operation, url, announced)}))


if __name__ == "__main__":
    main()
