"""`slimline serve`: what it brings up, and how it takes what is done to it."""

import platform
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import httpx
import psutil
import pytest
import yaml
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Origin, Subprotocol

from slimline.flows.config.study import study_names
from tests.command import run_command
from tests.e2e.server import STUDY, TINY, Server, kill_processes, read_record, run_server, turn_places, wait_until
from tests.system import PATIENCE_S

pytestmark = [pytest.mark.e2e, pytest.mark.long]

ALL_TURNS = [(number, position) for number in (1, 2, 3) for position in (0, 1)]


def ready_deployments(server: Server) -> set[str]:
    """The deployments whose pool has a worker."""
    return {each["name"] for each in server.ask("deployments/filter", limit=50) if each["status"] == "READY"}


def test_deployments_are_there_once_and_say_what_they_do(server: Server) -> None:
    found = server.ask("deployments/filter", limit=50)
    names = sorted(deployment["name"] for deployment in found)
    assert names == ["benchmark", "compact", "gc", "laptop", "nightly"]
    for deployment in found:
        assert len(deployment["description"]) > 100
        assert deployment["tags"] and deployment["version"]
    wait_until(lambda: ready_deployments(server) >= {"benchmark", "compact", "gc", "nightly"}, "a worker has reported")


def test_forms_offer_what_is_allowed_and_explain_it(server: Server) -> None:
    for name in ("benchmark/benchmark", "nightly/nightly", "gc/gc", "measure/laptop"):
        form = server.deployment(name)["parameter_openapi_schema"]["properties"]
        assert all(field["description"] for field in form.values()), name
    form = server.deployment("benchmark/benchmark")["parameter_openapi_schema"]["properties"]
    choices = next(each for each in form["study"]["anyOf"] if "enum" in each)
    assert choices["enum"] == study_names()
    rounds = next(each for each in form["rounds"]["anyOf"] if each.get("type") == "integer")
    assert (rounds["minimum"], rounds["maximum"]) == (1, 1000)
    with pytest.raises(httpx.HTTPStatusError, match="409"):
        server.trigger("benchmark/benchmark", study="smoke", rounds=0)


def test_everything_listens_on_loopback_only(server: Server) -> None:
    listening = {
        connection.laddr.ip
        for process in server.processes()
        for connection in process.net_connections()
        if connection.status == psutil.CONN_LISTEN
    }
    assert listening == {"127.0.0.1"}


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"Authorization": "Basic d3Jvbmc="}, 401),
        ({"Authorization": "Bearer {token}"}, 401),
        ({"Authorization": "{right}", "Origin": "http://evil.example", "Host": "evil.example"}, 403),
        ({"Authorization": "{right}", "Origin": "http://evil.example"}, 403),
        ({"Authorization": "{right}", "Origin": "null"}, 403),
        ({"Authorization": "{right}", "Host": "evil.example:4200"}, 403),
        ({"Authorization": "{right}", "Sec-Fetch-Site": "cross-site"}, 403),
    ],
)
def test_strangers_start_nothing(headers: dict[str, str], status: int, server: Server) -> None:
    right = {"token": server.token, "right": server.headers["Authorization"]}
    sent = {name: value.format(**right) for name, value in headers.items()}
    url = f"{server.url}/api/deployments/{server.deployment('gc/gc')['id']}/create_flow_run"
    answer = httpx.post(
        url, headers=sent, json={"state": {"type": "SCHEDULED"}, "name": "stranger"}, timeout=PATIENCE_S
    )
    assert answer.status_code == status
    assert "access-control-allow-origin" not in answer.headers
    assert server.ask("flow_runs/count", flow_runs={"name": {"any_": ["stranger"]}}) == 0


def test_no_other_page_is_allowed_to_ask(server: Server) -> None:
    asked = {"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"}
    answer = httpx.options(f"{server.url}/api/flow_runs/", headers=asked, timeout=PATIENCE_S)
    assert answer.status_code == 403 and "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize("path", ["events/in", "events/out", "logs/out"])
def test_no_other_page_gets_a_web_socket(path: str, server: Server) -> None:
    url = f"{server.url.replace('http', 'ws')}/api/{path}"
    with pytest.raises(InvalidStatus, match="403"):
        connect(
            url, origin=Origin("http://evil.example"), subprotocols=[Subprotocol("prefect")], open_timeout=PATIENCE_S
        ).close()
    with connect(url, subprotocols=[Subprotocol("prefect")], open_timeout=PATIENCE_S) as socket:
        socket.send('{"type": "auth", "token": "wrong"}')
        with pytest.raises(ConnectionClosed):
            socket.recv(PATIENCE_S)


def test_a_run_chooses_nothing_of_its_process(server: Server, tmp_path: Path) -> None:
    url = f"{server.url}/api/deployments/{server.deployment('gc/gc')['id']}/create_flow_run"
    made = tmp_path / "made"
    for variables in ({"command": f"touch {made}"}, {"env": {"PATH": str(tmp_path)}}, {"working_dir": str(tmp_path)}):
        wanted = {"state": {"type": "SCHEDULED"}, "job_variables": variables}
        assert httpx.post(url, headers=server.headers, json=wanted, timeout=PATIENCE_S).is_client_error
    assert not made.exists()


def test_only_its_owner_reads_the_token(server: Server) -> None:
    assert [(server.home / name).stat().st_mode & 0o777 for name in ("serve.json", "server-token")] == [0o600] * 2


def test_a_second_serve_says_where_the_first_is(server: Server) -> None:
    second = run_command("serve", "--port", str(server.port + 1), home=server.home)
    assert server.url in second.stdout and str(server.process.pid) in second.stdout
    assert read_record(server.home)["url"] == server.url


def test_other_commands_on_the_home_use_its_server(server: Server, tmp_path: Path) -> None:
    study = tmp_path / "typed.yaml"
    study.write_text(yaml.safe_dump({**STUDY, "name": "typed"}), "utf8")
    run_command("run", str(study), "--rounds", "1", home=server.home)
    (run,) = server.ask("flow_runs/filter", flow_runs={"name": {"any_": ["benchmark typed"]}})
    assert run["state_type"] == "COMPLETED" and run["deployment_id"] is None


def test_nightly_is_on_the_schedule_at_half_past_two(server: Server) -> None:
    runs = wait_until(lambda: server.runs_of("nightly/nightly", "SCHEDULED")[:3], "nightly is scheduled")
    for run in runs:
        due = datetime.fromisoformat(run["expected_start_time"]).astimezone(ZoneInfo("Europe/Amsterdam"))
        assert (due.hour, due.minute) == (2, 30) and due > datetime.now(UTC)


def test_a_nightly_that_is_due_starts_by_itself_and_alone(server: Server) -> None:
    schedules = f"deployments/{server.deployment('nightly/nightly')['id']}/schedules"
    often = {"active": True, "schedule": {"interval": 15}, "parameters": TINY | {"rounds": 3}}
    (created,) = server.request("POST", schedules, [often])
    wait_until(lambda: server.runs_of("nightly/nightly", "CANCELLED"), "a nightly that is due while one runs")
    server.request("DELETE", f"{schedules}/{created['id']}")
    (first,) = server.runs_of("nightly/nightly", "PENDING", "RUNNING", "COMPLETED")
    assert server.wait_for_end(first["id"])["type"] == "COMPLETED"
    assert first["auto_scheduled"]
    assert server.ask(f"flow_runs/{first['id']}")["name"] == "nightly tiny"


def test_runs_survive_the_end_of_worker_and_server(server: Server) -> None:
    run = server.trigger("benchmark/benchmark", **TINY)
    server.wait_for_turns(run, 1)
    kill_processes(server.processes("prefect worker start"))
    server.wait_for_turns(run, 2)
    kill_processes(server.processes("slimline.flows.server.prefect_server"))
    assert server.wait_for_end(run)["type"] == "COMPLETED"
    assert turn_places(server.rows(run)) == ALL_TURNS
    assert len(server.rows(run, "runs")) == 1


def test_a_run_whose_processes_were_all_killed_goes_on_where_it_was(server: Server) -> None:
    run = server.trigger("benchmark/benchmark", **TINY)
    server.wait_for_turns(run, 1)
    kill_processes([*server.processes("prefect worker start"), *server.processes(flow_run=run)])
    before = server.rows(run)
    assert server.wait_for_end(run)["type"] == "COMPLETED"
    rows = server.rows(run)
    assert turn_places(rows) == ALL_TURNS
    assert {row["pid"] for row in before} < {row["pid"] for row in rows}
    assert len(server.rows(run, "runs")) == 1
    assert not server.ask("flow_runs/filter", flow_runs={"state": {"type": {"any_": ["RUNNING", "PENDING"]}}})


def test_a_flow_run_that_was_killed_under_a_living_worker_goes_on(server: Server) -> None:
    run = server.trigger("benchmark/benchmark", **TINY)
    server.wait_for_turns(run, 1)
    kill_processes(server.processes(flow_run=run))
    wait_until(lambda: server.ask(f"flow_runs/{run}")["run_count"] == 2, "it is started again")
    assert server.wait_for_end(run)["type"] == "COMPLETED"
    assert turn_places(server.rows(run)) == ALL_TURNS


def test_housekeeping_runs(server: Server) -> None:
    runs = [server.trigger("compact/compact"), server.trigger("gc/gc", dry_run=True)]
    assert [server.wait_for_end(run)["type"] for run in runs] == ["COMPLETED", "COMPLETED"]


def test_a_worker_elsewhere_connects_and_leaves(server: Server, tmp_path: Path) -> None:
    started = datetime.now(UTC)
    options = ("--connect", f"{server.url}/api", "--pools", "laptop")
    with run_server(tmp_path / "laptop", *options, PREFECT_API_AUTH_STRING=server.token) as other:
        workers = server.ask("work_pools/laptop/workers/filter", limit=10)
        # A worker that was killed stays ONLINE until its heartbeats are missed: only a heartbeat tells who is there.
        alive = [each["name"] for each in workers if datetime.fromisoformat(each["last_heartbeat_time"]) >= started]
        assert alive == [f"{platform.node()}-laptop"]
        assert len(other.processes("prefect worker start")) == 1
        assert read_record(other.home)["url"] == server.url
        assert not other.processes("slimline.flows.server.prefect_server")
    assert server.process.poll() is None


def test_many_clients_that_write_at_once_are_all_answered(server: Server) -> None:
    def write(number: int) -> set[int]:
        """Register what a worker would, as often as it takes for two to meet."""
        with httpx.Client(base_url=f"{server.url}/api", headers=server.headers, timeout=PATIENCE_S) as client:
            flow = client.post("/flows/", json={"name": f"flow {number}"})
            new = {"name": f"d{number}", "flow_id": flow.json().get("id"), "work_pool_name": "local"}
            calls = [("/work_pools/local/get_scheduled_flow_runs", {}), ("/deployments/", new)]
            return {client.post(path, json=content).status_code for path, content in calls * 6}

    with ThreadPoolExecutor(12) as clients:
        assert set().union(*clients.map(write, range(12))) == {200, 201}
