"""Rows are checked when they are made: the store writes whatever they accept, and gives it back unchanged."""

import re
from datetime import UTC, datetime

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from slimline.storage.metrics.connection import fetch
from slimline.storage.metrics.names import NAME_COLUMNS
from slimline.storage.metrics.rows import ROWS, HostRow, Suspect
from slimline.storage.metrics.schema import columns
from slimline.storage.metrics.store import MetricsStore
from tests.storage.factories import measured, run_row, verdict_row

HOST = HostRow(host="box", run="r1")
SUSPECT = Suspect(library="torch", before="2.0", after=None)
REFUSED = [
    (measured("a", "es", 1.0), {"valeu": 1.0}, "valeu", "not permitted"),
    (measured("a", "es", 1.0), {"value": "3"}, "value", "valid number"),
    (measured("a", "es", 1.0), {"value": True}, "value", "valid number"),
    (measured("a", "es", 1.0), {"value": float("nan")}, "value", "finite number"),
    (measured("a", "es", 1.0), {"lo": float("-inf")}, "lo", "finite number"),
    (measured("a", "es", 1.0), {"n": 1.5}, "n", "valid integer"),
    (measured("a", "es", 1.0), {"n": 2**63}, "n", "less than 9223372036854775808"),
    (measured("a", "es", 1.0), {"n": -(2**63) - 1}, "n", "greater than or equal to -9223372036854775808"),
    (measured("a", "es", 1.0), {"n": True}, "n", "valid integer"),
    (measured("a", "es", 1.0), {"variant": 3}, "variant", "valid string"),
    (measured("a", "es", 1.0), {"variant": b"a"}, "variant", "valid string"),
    (measured("a", "es", 1.0), {"variant": "\ud800"}, "variant", "surrogates not allowed"),
    (measured("a", "es", 1.0), {"variant": None}, "variant", "valid string"),
    (measured("a", "es", 1.0), {"random_weights": 1}, "random_weights", "valid boolean"),
    (measured("a", "es", 1.0), {"time": "2026-01-01"}, "time", "valid datetime"),
    (measured("a", "es", 1.0), {"time": datetime(2026, 1, 1)}, "time", "timezone"),
    (run_row(), {"decoding": "{"}, "decoding", "line 1 column 2"),
    (run_row(), {"decoding": "[1]"}, "decoding", "valid dictionary"),
    (run_row(), {"spec": {"x": object()}}, "spec.x", "valid JSON"),
    (run_row(), {"spec": {"x": {"y": [float("nan")]}}}, "spec.x", "finite number"),
    (run_row(), {"spec": '{"x": Infinity}'}, "spec.x", "finite number"),
    (run_row(), {"spec": {"x": ["\ud800"]}}, "spec", "surrogates not allowed"),
    (run_row(), {"spec": {"\ud800": 1}}, "spec", "surrogates not allowed"),
    (run_row(), {"spec": {1: 1}}, "spec.1", "valid string"),
    (run_row(), {"versions": {"torch": 2}}, "versions.torch", "valid string"),
    (run_row(), {"versions": {"torch": "\udfff"}}, "versions", "surrogates not allowed"),
    (HOST, {"isa": "avx2"}, "isa", "valid tuple"),
    (HOST, {"isa": (1,)}, "isa.0", "valid string"),
    (HOST, {"isa": ("avx2", "\ud800")}, "isa", "surrogates not allowed"),
    (verdict_row(), {"verdict": "fine"}, "verdict", "'ok', 'new', 'not-comparable'"),
    (verdict_row(), {"suspects": ({"library": "torch"},)}, "suspects.0.before", "required"),
    (verdict_row(), {"suspects": (SUSPECT.model_copy(update={"after": "\ud800"}),)}, "suspects", "surrogates"),
]


@pytest.mark.parametrize(("row", "change", "field", "allowed"), REFUSED)
def test_a_value_that_does_not_fit_is_refused_and_the_field_named(row, change, field, allowed):
    with pytest.raises(ValidationError, match=re.escape(allowed)) as refusal:
        type(row)(**dict(row) | change)
    assert any(
        ".".join(map(str, each["loc"])).startswith(field) and allowed in each["msg"] for each in refusal.value.errors()
    )
    with pytest.raises(ValidationError):
        row.replace(**change)


@pytest.mark.parametrize("row", ROWS)
def test_what_rows_are_found_by_is_required(row):
    with pytest.raises(ValidationError) as refusal:
        row()
    missing = {str(*each["loc"]) for each in refusal.value.errors() if each["type"] == "missing"}
    assert missing == {column.name for column in columns(row) if column.required} >= {"run"}


def test_a_row_never_changes_and_a_copy_is_checked():
    row = run_row()
    with pytest.raises(ValidationError):
        row.run = "other"
    assert row.replace(run="other") == run_row("other")
    assert row.run == "r1"


TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=9)
FINITE = st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | FINITE | TEXT,
    lambda parts: st.lists(parts, max_size=3) | st.dictionaries(TEXT, parts, max_size=3),
    max_leaves=5,
)
VALUES = {
    "string": TEXT,
    "int": st.integers(-(2**63), 2**63 - 1),
    "float": FINITE,
    "bool": st.booleans(),
    "time": st.datetimes(datetime(1970, 1, 2), datetime(2200, 1, 1), timezones=st.just(UTC)),
    "strings": st.lists(TEXT, max_size=3).map(tuple),
}
NAMES = st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9_.@+: -]{0,9}[A-Za-z0-9]\Z")
OBJECTS = {
    **dict.fromkeys(NAME_COLUMNS, NAMES),
    "decoding": st.dictionaries(TEXT, JSON, max_size=3),
    "spec": st.dictionaries(TEXT, JSON, max_size=3),
    "versions": st.dictionaries(TEXT, TEXT, max_size=3),
    "suspects": st.lists(
        st.builds(Suspect, library=TEXT, before=st.none() | TEXT, after=st.none() | TEXT), max_size=2
    ).map(tuple),
    "verdict": st.sampled_from(["ok", "regression", "failed"]),
}


@st.composite
def rows_of_a_table(draw):
    """Some rows of one table."""
    row = draw(st.sampled_from(ROWS))
    values = {column: OBJECTS.get(column.name, VALUES.get(column.type)) for column in columns(row)}
    fields = {column.name: each if column.required else st.none() | each for column, each in values.items()}
    return draw(st.lists(st.builds(row, **fields), min_size=1, max_size=3))


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(rows=rows_of_a_table())
def test_any_rows_come_back(tmp_path_factory, rows):
    store = MetricsStore(tmp_path_factory.mktemp("any"))
    store.append(rows)
    with store.connect() as connection:
        assert fetch(connection, type(rows[0]), f"FROM {rows[0].table}") == rows
