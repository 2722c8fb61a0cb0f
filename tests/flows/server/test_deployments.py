"""prefect.yaml: what it deploys is there, is described, and runs wherever the worker is."""

import sys
from importlib import import_module
from importlib.metadata import version
from typing import Any

import pytest
import yaml
from prefect import Flow
from prefect.utilities.callables import parameter_schema

from slimline.flows.config.host import Pool, host_names, load_host
from tests.command import ROOT

CONTENT = yaml.safe_load((ROOT / "prefect.yaml").read_text("utf8"))
DEPLOYMENTS: list[dict[str, Any]] = CONTENT["deployments"]
each_deployment = pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=lambda deployment: deployment["name"])


def flow_of(deployment: dict[str, Any]) -> Flow[..., Any]:
    module, name = deployment["entrypoint"].rsplit(".", 1)
    found: Flow[..., Any] = getattr(import_module(module), name)
    return found


def test_the_checkout_and_the_package_have_the_same_file() -> None:
    assert (ROOT / "prefect.yaml").samefile(ROOT / "flows" / "prefect.yaml")


def test_there_is_one_of_each_and_a_measure_for_each_pool() -> None:
    names = {f"{flow_of(deployment).name}/{deployment['name']}" for deployment in DEPLOYMENTS}
    pools = {host.pool for host in map(load_host, host_names()) if isinstance(host, Pool)}
    expected = {"benchmark/benchmark", "nightly/nightly", "compact/compact", "gc/gc"}
    assert names == expected | {f"measure/{pool}" for pool in pools}
    for deployment in DEPLOYMENTS:
        is_measure = deployment["entrypoint"] == "slimline.flows.measure.measure"
        assert deployment["work_pool"]["name"] == (deployment["name"] if is_measure else "local")


@each_deployment
def test_it_is_described_tagged_and_of_this_version(deployment: dict[str, Any]) -> None:
    assert deployment["version"] == version("slimline")
    assert "slimline" in deployment["tags"]
    for parameter in parameter_schema(flow_of(deployment)).properties:
        told = deployment["description"]
        assert f"**{parameter}**" in told or "Nothing to fill in" in told


@each_deployment
def test_its_form_explains_every_parameter_and_accepts_the_defaults(deployment: dict[str, Any]) -> None:
    flow = flow_of(deployment)
    form = parameter_schema(flow)
    assert all(field.get("description") for field in form.properties.values())
    given = deployment.get("parameters", {})
    if set(form.required) <= given.keys():
        flow.validate_parameters(given)


@each_deployment
def test_code_is_found_by_its_module_whatever_the_directory(deployment: dict[str, Any]) -> None:
    assert CONTENT["pull"] == [] and ":" not in deployment["entrypoint"]
    assert flow_of(deployment).fn.__module__ in sys.modules


def test_nightly_is_alone_at_half_past_two_in_amsterdam() -> None:
    (nightly,) = (deployment for deployment in DEPLOYMENTS if deployment["name"] == "nightly")
    hour = {"cron": "30 2 * * *", "timezone": "Europe/Amsterdam"}
    assert nightly["schedules"] == [{"slug": "daily-0230-amsterdam", **hour}]
    assert nightly["concurrency_limit"] == {"limit": 1, "collision_strategy": "CANCEL_NEW"}
