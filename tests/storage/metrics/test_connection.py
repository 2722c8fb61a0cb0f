"""Answers as models."""

import pytest
from pydantic import BaseModel, ValidationError

from slimline.storage.metrics.connection import connect, fetch
from slimline.storage.metrics.rows import HostRow, RunRow, Suspect, VerdictRow
from tests.storage.factories import NOON, run_row, verdict_row


class Named(BaseModel):
    name: str
    number: int | None = None


@pytest.fixture
def connection():
    with connect({}) as empty:
        yield empty


def test_columns_go_by_name_and_those_that_the_model_lacks_are_left_out(connection):
    found = fetch(connection, Named, "SELECT 1 AS surprise, * FROM (VALUES (2, 'b'), (1, 'a')) t(number, name)")
    assert found == [Named(name="b", number=2), Named(name="a", number=1)]
    assert fetch(connection, Named, "SELECT ? AS name", ["it's"]) == [Named(name="it's")]
    assert fetch(connection, Named, "SELECT 'a' AS name WHERE false") == []


def test_a_column_that_the_model_needs_is_named(connection):
    with pytest.raises(ValidationError) as refusal:
        fetch(connection, Named, "SELECT 1 AS number")
    assert [each["loc"] for each in refusal.value.errors()] == [("name",)]


def test_objects_lists_and_times_are_what_was_written(metrics):
    run = run_row(spec={"data": {"samples": 4}}, versions={"torch": "2.0"}, finished=None)
    host = HostRow(host="box", run="r1", isa=("avx2", "amx"))
    suspects = (Suspect(library="torch", before="2.0", after=None),)
    verdict = verdict_row(rerun=("r2", "r3"), suspects=suspects)
    for row in (run, host, verdict):
        metrics.append([row])
    with metrics.connect() as connection:
        (run_back,) = fetch(connection, RunRow, "FROM runs")
        assert (run_back, fetch(connection, HostRow, "FROM hosts")) == (run, [host])
        assert fetch(connection, VerdictRow, "FROM verdicts") == [verdict]
    assert run_back.started == NOON
    assert run_back.started.utcoffset() is not None
