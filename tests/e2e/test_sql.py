"""SQL over a real run: every query and command of docs/sql.md, and a prompt on a real terminal."""

import os
import pty
import re
import select
import shlex
import subprocess
import sys
import time
from pathlib import Path

import duckdb
import pytest

from storage.metrics import MetricsStore
from tests.command import ROOT, environment, run_command

pytestmark = pytest.mark.e2e
PAGE = (ROOT / "docs" / "sql.md").read_text("utf8")
QUERIES = re.findall(r"```sql\n(.*?)```", PAGE, re.DOTALL)
(COMMANDS,) = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture(scope="module")
def store(smoke: subprocess.CompletedProcess[str], session_home: Path) -> MetricsStore:
    return MetricsStore(session_home / "metrics")


def test_there_are_twenty_queries() -> None:
    assert len(QUERIES) == len(set(QUERIES)) == 20


@pytest.mark.parametrize("sql", QUERIES)
def test_a_documented_query_answers(store: MetricsStore, sql: str) -> None:
    assert store.query(sql).num_rows > 0


def test_the_documented_commands_run(store: MetricsStore, session_home: Path, tmp_path: Path) -> None:
    (tmp_path / "queries.sql").write_text(";\n".join(QUERIES[:2]))
    commands = [line.split("  #")[0] for line in COMMANDS.splitlines()]
    assert commands[-1] == "slimline sql"  # the prompt has a test of its own
    for command in commands[:-1]:
        words = [
            word if word not in ("queries.sql", "history.parquet", "everything.duckdb") else str(tmp_path / word)
            for word in shlex.split(command)
        ]
        if "<" in words:
            words[words.index("<")] = "--file"
        assert words[:2] == ["slimline", "sql"]
        run_command(*words[1:], home=session_home)
    with duckdb.connect(tmp_path / "everything.duckdb", read_only=True) as exported:
        ours = exported.execute("SELECT variant, es, samples_per_s FROM result_table ORDER BY ALL").fetchall()
    there = store.query("SELECT variant, es, samples_per_s FROM result_table ORDER BY ALL")
    assert ours == list(zip(*(column.to_pylist() for column in there.columns), strict=True))
    parquet = duckdb.sql(f"SELECT count(*) FROM read_parquet('{tmp_path}/history.parquet')").fetchone()
    assert parquet == duckdb.connect(tmp_path / "everything.duckdb").execute("SELECT count(*) FROM history").fetchone()


def until(terminal: int, text: str) -> str:
    """What the terminal shows until the text has come, at most a minute."""
    shown, end = "", time.monotonic() + 60
    while text not in shown and time.monotonic() < end:
        if select.select([terminal], [], [], 0.1)[0]:
            shown += os.read(terminal, 65_536).decode("utf8", "replace")
    assert text in shown, shown
    return shown


def test_a_terminal_gets_a_prompt_whose_queries_can_be_interrupted(store: MetricsStore, session_home: Path) -> None:
    terminal, other = pty.openpty()
    command = [sys.executable, "-m", "flows.cli", "sql"]
    process = subprocess.Popen(
        command,
        stdin=other,
        stdout=other,
        stderr=other,
        cwd=ROOT,
        env=environment(session_home) | {"TERM": "dumb"},
        start_new_session=True,
        preexec_fn=lambda: os.close(terminal),
    )
    os.close(other)
    try:
        until(terminal, "slimline>")
        os.write(terminal, b"SELECT count(*) + 41 AS answer\rFROM range(1);\r")
        until(terminal, "42")
        os.write(terminal, b"SELECT sleep_ms(600000);\r")
        until(terminal, "600000")
        time.sleep(1)
        os.write(terminal, b"\x03")
        process.send_signal(2)
        until(terminal, "the query was cancelled")
        os.write(terminal, b"\x04")
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()
        os.close(terminal)
