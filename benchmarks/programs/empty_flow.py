"""Runs a flow with as many tasks as asked for, none of which does anything: `empty_flow.py TASKS`."""

import sys

import slimline.flows  # its settings of Prefect

assert slimline.flows.__file__

from prefect import flow, task  # noqa: E402 - reads the settings when it is imported


@task
def nothing() -> None:
    """Do nothing."""


@flow
def empty(tasks: int) -> None:
    """Run the tasks, one after the other."""
    for _ in range(tasks):
        nothing()


empty(int(sys.argv[1]))
