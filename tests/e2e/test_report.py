"""The report of a run: one file that opens without a network, with the table's numbers to the digit."""

import json
import re
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import sync_playwright

from tests.command import run_command
from tests.system import require

pytestmark = pytest.mark.e2e

SVG_HEAD, PNG_HEAD = b"<svg ", b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def written(smoke_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("report")
    arguments = ["--study", "smoke", "--out", str(directory / "report.html"), "--figures", str(directory / "figures")]
    printed = run_command("report", *arguments, home=smoke_home).stdout.split()
    assert {Path(path) for path in printed} == {path for path in directory.rglob("*") if path.is_file()}
    return directory


@pytest.fixture(scope="module")
def rows(smoke_home: Path) -> list[dict[str, object]]:
    printed = run_command("table", "--study", "smoke", "--format", "json", home=smoke_home).stdout
    parsed: list[dict[str, object]] = json.loads(printed)
    return parsed


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_opens_from_disk_without_a_network(written: Path, scheme: str) -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=require("chromium"), args=["--no-sandbox"])
        page = browser.new_context(offline=True, color_scheme=scheme).new_page()  # type: ignore[arg-type]
        requests, complaints = [], []
        page.on("request", lambda request: requests.append(request.url))
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto((written / "report.html").as_uri())
        severe = [
            (each["id"], each["nodes"][0]["html"])
            for each in Axe().run(page).response["violations"]
            if each["impact"] in ("serious", "critical")
        ]
        assert page.locator("figure svg").count() >= 3
        assert page.locator("h2").count() == 4
        browser.close()
    assert requests == [(written / "report.html").as_uri()]
    assert complaints == []
    assert severe == []


def test_its_numbers_are_those_of_the_table_to_the_digit(written: Path, rows: list[dict[str, object]]) -> None:
    page = (written / "report.html").read_text("utf8")
    embedded = re.search(r'<script type="application/json" id="rows">(.*?)</script>', page, re.DOTALL)
    assert embedded is not None
    assert json.loads(embedded[1]) == rows
    every = page[page.index("<h3>Every figure</h3>") :]
    for row in rows:
        for metric in ("samples_per_s", "disk_mb", "es", "memory_mb", "latency_p95_ms"):
            interval = "" if row[f"{metric}_lo"] is None else f" [{row[f'{metric}_lo']}, {row[f'{metric}_hi']}]"
            assert f"<td>{row[metric]}{interval}</td>" in every, (row["variant"], metric)


def test_it_shows_the_tables_lines_and_where_all_came_from(
    written: Path, rows: list[dict[str, object]], smoke_home: Path
) -> None:
    page = (written / "report.html").read_text("utf8")
    table = run_command("table", "--study", "smoke", "--format", "html", home=smoke_home).stdout
    assert table.strip() in page
    for artifact in {str(row["artifact"])[:12] for row in rows}:
        assert f":{artifact}</th>" in page
    assert "slimline run smoke.yaml" in page
    assert "onnxruntime" in page


def test_the_study_in_it_runs_again(written: Path, smoke_home: Path, tmp_path: Path) -> None:
    page = (written / "report.html").read_text("utf8")
    study = page[page.rindex('<pre tabindex="0">') + len('<pre tabindex="0">') : page.rindex("</pre>")]
    again = tmp_path / "smoke.yaml"
    again.write_text(study.replace("&quot;", '"').replace("&#x27;", "'"))
    refused = run_command("run", str(again), "--variants", "nonsense", home=smoke_home, check=False)
    assert "nonsense" in refused.stderr  # it was read as a study: only the variant is refused
    assert "original" in refused.stderr


def test_the_pictures_are_pictures_and_the_latex_is_for_booktabs(written: Path) -> None:
    figures = written / "figures"
    vectors = sorted(figures.glob("*.svg"))
    assert {"tradeoff.svg", "tradeoff-disk.svg", "tradeoff-memory.svg", "speedups.svg"} <= {
        each.name for each in vectors
    }
    for vector in vectors:
        assert vector.read_bytes().startswith(SVG_HEAD)
        assert vector.with_suffix(".png").read_bytes().startswith(PNG_HEAD)
    latex = (figures / "results.tex").read_text("utf8")
    assert re.findall(r"\\(\w+rule|begin\{\w+\}|end\{\w+\})", latex) == [
        "begin{table}",
        "begin{tabular}",
        "toprule",
        "midrule",
        "bottomrule",
        "end{tabular}",
        "end{table}",
    ]
    columns = latex.split(r"\begin{tabular}{")[1].split("}")[0]
    body = latex.split(r"\toprule")[1].split(r"\bottomrule")[0].replace(r"\midrule", "")
    lines = [line for line in body.split(r"\\") if line.strip()]
    assert {len(re.findall(r"(?<!\\)&", line)) + 1 for line in lines} == {len(columns)}


def test_an_unknown_run_is_refused_and_nothing_written(smoke_home: Path, tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    finished = run_command("report", "--run", "nonsense", "--out", str(out), home=smoke_home, check=False)
    assert finished.returncode == 2
    assert "no run" in finished.stderr
    assert not out.exists()
