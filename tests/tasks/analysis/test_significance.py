"""The best figure of a column is bold, what surely differs from the baseline has a star: wherever there is bold."""

import pytest

from slimline.dashboards.reports.formats import render
from slimline.storage.metrics.store import MetricsStore
from slimline.storage.queries.results import result_rows
from tests.dashboards.small import fill
from tests.factories import with_figures


@pytest.fixture
def rows(tmp_path):
    fill(tmp_path)
    return result_rows(MetricsStore(tmp_path))


def test_html_has_intervals_beneath(rows):
    page = render(rows, "html")
    assert "<strong>8.00*</strong><br><small>[7.50, 8.50]</small>" in page  # int8's speed ratio
    assert "<strong>10.00</strong>" in page  # its size, of which there is no test
    assert "<strong>40.00</strong><br><small>[38.00, 42.00]</small>" in page  # the baseline's ES
    assert "39.00<br>" in page and "39.00*" not in page  # an ES drop that may be none
    assert "surely differs" in page


def test_markdown_and_latex_have_them_beside_but_for_quality(rows):
    assert r"| **8.00\*** [7.50, 8.50] | **16.00** [15.00, 17.00] |" in render(rows, "md")
    assert r"& \textbf{8.00*} [7.50, 8.50] & \textbf{16.00} [15.00, 17.00] &" in render(rows, "latex")
    assert r"\textbf{40.00} &" in render(rows, "latex")


def test_equals_and_failures_are_never_the_best(rows):
    original, int8 = rows
    assert "**" not in render([original, original], "md")
    failed = int8.model_copy(update={"error": "died"})
    assert "**10.00**" not in render([original, failed], "md")
    assert "**10.00**" in render([original, with_figures(original, disk_mb=20.0), int8], "md")


def test_a_terminal_gets_none_of_it(rows):
    text = render(rows, "text")
    assert "*" not in text and "surely" not in text
