"""Runs a flow with as many tasks as asked for, none of which does anything: `empty_flow.py TASKS`."""

import sys

import slimline.flows  # noqa: F401 - sets Prefect's defaults, which Prefect reads when it is imported


def main(tasks: int) -> None:
    """Run the tasks, one after the other."""
    from prefect import flow, task

    @task
    def do_nothing() -> None:
        pass

    @flow
    def empty() -> None:
        for _ in range(tasks):
            do_nothing()

    empty()


if __name__ == "__main__":
    main(int(sys.argv[1]))
