"""SQL over a real run: every query and command of docs/sql.md, and a prompt on a real terminal."""

import os
import pty
import re
import select
import shlex
import signal
import sys
import time
from pathlib import Path

import duckdb
import pytest

from slimline.storage.metrics.store import MetricsStore
from tests.command import ROOT, environment, run_command

pytestmark = pytest.mark.e2e
PAGE = (ROOT / "docs" / "sql.md").read_text("utf8")
QUERIES = re.findall(r"```sql\n(.*?)```", PAGE, re.DOTALL)
(COMMANDS,) = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture(scope="module")
def store(smoke_home: Path) -> MetricsStore:
    return MetricsStore(smoke_home / "metrics")


def test_there_are_twenty_queries() -> None:
    assert len(QUERIES) == len(set(QUERIES)) == 20


@pytest.mark.parametrize("sql", QUERIES)
def test_a_documented_query_answers(store: MetricsStore, sql: str) -> None:
    assert store.query(sql).num_rows > 0


def test_the_documented_commands_run(store: MetricsStore, smoke_home: Path, tmp_path: Path) -> None:
    (tmp_path / "queries.sql").write_text(";\n".join(QUERIES[:2]))
    commands = [line.split("  #")[0].strip() for line in COMMANDS.splitlines()]
    assert commands[-1] == "slimline sql"  # the prompt has a test of its own
    for command in commands[:-1]:
        words = [
            word if word not in ("queries.sql", "history.parquet", "everything.duckdb") else str(tmp_path / word)
            for word in shlex.split(command)
        ]
        if "<" in words:
            words[words.index("<")] = "--file"
        assert words[:2] == ["slimline", "sql"]
        run_command(*words[1:], home=smoke_home)
    with duckdb.connect(tmp_path / "everything.duckdb", read_only=True) as exported:
        ours = exported.execute("SELECT variant, es, samples_per_s FROM result_table ORDER BY ALL").fetchall()
        history = exported.execute("SELECT count(*) FROM history").fetchone()
        written = exported.execute(f"SELECT count(*) FROM read_parquet('{tmp_path}/history.parquet')").fetchone()
    there = store.query("SELECT variant, es, samples_per_s FROM result_table ORDER BY ALL")
    assert ours == list(zip(*(column.to_pylist() for column in there.columns), strict=True))
    assert history == written


class Terminal:
    """What a person sees of a command, and types to it."""

    def __init__(self, file: int) -> None:
        self.file, self.shown = file, ""

    def until(self, text: str, keys: bytes = b"") -> None:
        """Wait until the text has come, after all that was waited for before; meanwhile type keys, more than once."""
        started = typed = time.monotonic()
        while text not in self.shown and time.monotonic() < started + 600:
            if keys and time.monotonic() > typed + 2:
                typed = time.monotonic()
                self.type(keys)
            if select.select([self.file], [], [], 0.1)[0]:
                self.shown += os.read(self.file, 65_536).decode("utf8", "replace")
        _, found, self.shown = self.shown.partition(text)
        assert found, self.shown

    def type(self, keys: bytes) -> None:
        os.write(self.file, keys)


def test_a_terminal_gets_a_prompt_whose_queries_can_be_interrupted(store: MetricsStore, smoke_home: Path) -> None:
    child, file = pty.fork()
    if child == 0:
        os.chdir(ROOT)
        variables = environment(smoke_home) | {"TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1"}
        os.execve(sys.executable, [sys.executable, "-m", "slimline.flows.cli", "sql"], variables)
    terminal, status = Terminal(file), None
    try:
        terminal.until("slimline>")
        terminal.type(b"SELECT count(*) + 41 AS answer\rFROM range(1);\r")
        terminal.until("42")
        terminal.until("slimline>")
        terminal.type(b"SELECT sleep_ms(600000);\r")
        # The first interrupt may come before the prompt has let go of the terminal, and is lost then.
        terminal.until("the query was cancelled", keys=b"\x03")
        terminal.until("slimline>")
        terminal.type(b"\x04")
        _, status = os.waitpid(child, 0)
    finally:
        if status is None:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        os.close(file)
    assert status == 0
