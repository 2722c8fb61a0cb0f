"""`slimline serve`: what it brings up, and how it takes what is done to it."""

from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import httpx
import psutil
import pytest
import yaml

from slimline.flows.config.study import study_names
from tests.command import run_command
from tests.e2e.serving import STUDY, TINY, Server, kill, read_served, serving, turns, wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.operations]

ALL_TURNS = [(number, position) for number in (1, 2, 3) for position in (0, 1)]


def test_deployments_are_there_once_and_say_what_they_do(served: Server) -> None:
    found = served.ask("deployments/filter", limit=50)
    names = sorted(deployment["name"] for deployment in found)
    assert names == ["benchmark", "compact", "gc", "laptop", "nightly"]
    for deployment in found:
        assert len(deployment["description"]) > 100
        assert deployment["tags"] and deployment["version"]
        assert deployment["status"] == ("NOT_READY" if deployment["name"] == "laptop" else "READY")


def test_forms_offer_what_is_allowed_and_explain_it(served: Server) -> None:
    for name in ("benchmark/benchmark", "nightly/nightly", "gc/gc", "measure/laptop"):
        form = served.deployment(name)["parameter_openapi_schema"]["properties"]
        assert all(field["description"] for field in form.values()), name
    form = served.deployment("benchmark/benchmark")["parameter_openapi_schema"]["properties"]
    choices = next(each for each in form["study"]["anyOf"] if "enum" in each)
    assert choices["enum"] == study_names()
    rounds = next(each for each in form["rounds"]["anyOf"] if each.get("type") == "integer")
    assert (rounds["minimum"], rounds["maximum"]) == (1, 1000)
    with pytest.raises(httpx.HTTPStatusError, match="409"):
        served.trigger("benchmark/benchmark", study="smoke", rounds=0)


def test_everything_listens_on_loopback_only(served: Server) -> None:
    listening = {
        connection.laddr.ip
        for process in served.processes()
        for connection in process.net_connections()
        if connection.status == psutil.CONN_LISTEN
    }
    assert listening == {"127.0.0.1"}


def test_a_second_serve_says_where_the_first_is(served: Server) -> None:
    second = run_command("serve", "--port", str(served.port + 1), home=served.home)
    assert served.url in second.stdout and str(served.process.pid) in second.stdout
    assert read_served(served.home)["url"] == served.url


def test_other_commands_on_the_home_use_its_server(served: Server, tmp_path: Path) -> None:
    study = tmp_path / "typed.yaml"
    study.write_text(yaml.safe_dump({**STUDY, "name": "typed"}), "utf8")
    run_command("run", str(study), "--rounds", "1", home=served.home)
    (run,) = served.ask("flow_runs/filter", flow_runs={"name": {"any_": ["benchmark typed"]}})
    assert run["state_type"] == "COMPLETED" and run["deployment_id"] is None


def test_nightly_is_on_the_schedule_at_half_past_two(served: Server) -> None:
    runs = wait_until(lambda: served.runs_of("nightly/nightly", "SCHEDULED")[:3], "nightly is scheduled")
    for run in runs:
        due = datetime.fromisoformat(run["expected_start_time"]).astimezone(ZoneInfo("Europe/Amsterdam"))
        assert (due.hour, due.minute) == (2, 30) and due > datetime.now(UTC)


def test_a_nightly_that_is_due_starts_by_itself_and_alone(served: Server) -> None:
    schedules = f"{served.url}/api/deployments/{served.deployment('nightly/nightly')['id']}/schedules"
    often = {"active": True, "schedule": {"interval": 15}, "parameters": TINY | {"rounds": 3}}
    (created,) = httpx.post(schedules, json=[often]).raise_for_status().json()
    wait_until(lambda: served.runs_of("nightly/nightly", "CANCELLED"), "a nightly that is due while one runs")
    httpx.delete(f"{schedules}/{created['id']}").raise_for_status()
    (first,) = served.runs_of("nightly/nightly", "PENDING", "RUNNING", "COMPLETED")
    assert served.finish(first["id"])["type"] == "COMPLETED"
    assert first["auto_scheduled"]
    assert served.ask(f"flow_runs/{first['id']}")["name"] == "nightly tiny"


def test_runs_survive_the_end_of_worker_and_server(served: Server) -> None:
    run = served.trigger("benchmark/benchmark", **TINY)
    served.measuring(run, 1)
    kill(served.processes("prefect worker start"))
    served.measuring(run, 2)
    kill(served.processes("slimline.flows.server.prefect_server"))
    assert served.finish(run)["type"] == "COMPLETED"
    assert turns(served.rows(run)) == ALL_TURNS
    assert len(served.rows(run, "runs")) == 1


def test_a_run_whose_processes_were_all_killed_goes_on_where_it_was(served: Server) -> None:
    run = served.trigger("benchmark/benchmark", **TINY)
    served.measuring(run, 2)
    before = served.rows(run)
    kill([*served.processes("prefect worker start"), *served.processes(flow_run=run)])
    assert served.finish(run)["type"] == "COMPLETED"
    rows = served.rows(run)
    assert turns(rows) == ALL_TURNS
    assert {row["pid"] for row in before} < {row["pid"] for row in rows}
    assert len(served.rows(run, "runs")) == 1
    assert not served.ask("flow_runs/filter", flow_runs={"state": {"type": {"any_": ["RUNNING", "PENDING"]}}})


def test_a_flow_run_that_was_killed_under_a_living_worker_goes_on(served: Server) -> None:
    run = served.trigger("benchmark/benchmark", **TINY)
    served.measuring(run, 1)
    kill(served.processes(flow_run=run))
    wait_until(lambda: served.ask(f"flow_runs/{run}")["run_count"] == 2, "it is started again")
    assert served.finish(run)["type"] == "COMPLETED"
    assert turns(served.rows(run)) == ALL_TURNS


def test_housekeeping_runs(served: Server) -> None:
    runs = [served.trigger("compact/compact"), served.trigger("gc/gc", dry_run=True)]
    assert [served.finish(run)["type"] for run in runs] == ["COMPLETED", "COMPLETED"]


def test_a_worker_elsewhere_connects_and_leaves(served: Server, tmp_path: Path) -> None:
    with serving(tmp_path / "laptop", "--connect", f"{served.url}/api", "--pools", "laptop") as other:
        workers = served.ask("work_pools/laptop/workers/filter", limit=10)
        assert [worker["status"] for worker in workers] == ["ONLINE"]
        assert read_served(other.home)["url"] == served.url
        assert not other.processes("slimline.flows.server.prefect_server")
    assert served.process.poll() is None
