"""The prompt of `slimline sql`: statements over several lines, with history and completion."""

from __future__ import annotations

import re
from functools import cached_property
from typing import TYPE_CHECKING

import typer
from prompt_toolkit import PromptSession
from prompt_toolkit.completion import WordCompleter
from prompt_toolkit.history import FileHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

from slimline.dashboards.reports.query_answer import render_answer
from slimline.storage.metrics.catalog import Relation, relations
from slimline.storage.metrics.sandbox import ask
from slimline.storage.metrics.sql_text import is_complete, keywords, statements
from slimline.storage.metrics.user_sql import QueryError
from slimline.storage.paths import home

if TYPE_CHECKING:
    from slimline.storage.metrics.sandbox import Limits
    from slimline.storage.metrics.store import MetricsStore

HELP = """A statement ends with a semicolon and may take several lines.
Tab completes; the arrows bring back earlier ones.
.tables        the tables and views
.schema [T]    the columns of one, or of all
.help          this
.quit          the end, as Ctrl-D
Ctrl-C stops a query, or clears what was typed."""
WORD = re.compile(r"[.\w]+")
COMMANDS = (".tables", ".schema", ".help", ".quit")


class Prompt:
    """Reads statements until the end, and prints their answers."""

    def __init__(self, store: MetricsStore, form: str, limits: Limits) -> None:
        self._store, self._form, self._limits = store, form, limits

    @cached_property
    def _relations(self) -> dict[str, Relation]:
        return {relation.name: relation for relation in relations()}

    def run(self) -> None:
        """Until Ctrl-D or .quit."""
        home().mkdir(parents=True, exist_ok=True)
        columns = dict.fromkeys(column.name for each in self._relations.values() for column in each.columns)
        words = [*COMMANDS, *self._relations, *columns, *keywords()]
        session: PromptSession[str] = PromptSession(
            history=FileHistory(str(home() / "sql_history")),
            completer=WordCompleter(words, ignore_case=True, pattern=WORD),
            complete_while_typing=False,
            multiline=True,
            key_bindings=_keys(),
            prompt_continuation="     ...> ",
        )
        typer.echo(".help says what there is; Ctrl-D ends")
        while True:
            try:
                text = session.prompt("slimline> ").strip()
            except KeyboardInterrupt:
                continue
            except EOFError:
                return
            if text == ".quit":
                return
            self.execute(text)

    def execute(self, text: str) -> None:
        """One command or some statements, as typed; what goes wrong is printed."""
        try:
            typer.echo(self._command(text) if text.startswith(".") else self._answers(text))
        except (QueryError, ValueError) as reason:
            typer.echo(f"error: {reason}", err=True)
        except KeyboardInterrupt:
            typer.echo("error: the query was cancelled", err=True)

    def _answers(self, text: str) -> str:
        return "\n".join(
            render_answer(ask(self._store.url, each, self._limits), self._form) for each in statements(text)
        )

    def _command(self, text: str) -> str:
        command, *names = text.split()
        if command == ".help":
            return HELP
        if command == ".tables":
            return "\n".join(f"{each.name:20} {each.kind:6} {each.doc}" for each in self._relations.values())
        if command == ".schema":
            return "\n\n".join(_schema_text(self._relation(name)) for name in names or self._relations)
        raise ValueError(f"{command!r} is not a command; allowed: {', '.join(COMMANDS)}")

    def _relation(self, name: str) -> Relation:
        if name not in self._relations:
            raise ValueError(f".schema: {name!r} is not a table or view; allowed: {', '.join(self._relations)}")
        return self._relations[name]


def _schema_text(relation: Relation) -> str:
    lines = [f"  {each.name:28} {each.type.lower():12} {each.doc}".rstrip() for each in relation.columns]
    return "\n".join([f"{relation.name} ({relation.kind}): {relation.doc}", *lines])


def _keys() -> KeyBindings:
    """Enter ends the input after a whole statement or a command, otherwise only the line."""
    keys = KeyBindings()

    @keys.add("enter")
    def _(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        text = buffer.text.strip()
        if not text or text.startswith(".") or is_complete(text):
            buffer.validate_and_handle()
        else:
            buffer.insert_text("\n")

    return keys
