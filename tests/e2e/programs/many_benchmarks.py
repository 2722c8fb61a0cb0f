"""Benchmarks of one study at the same time: many_benchmarks.py STUDY COUNT."""

import multiprocessing
import sys

import slimline.flows.benchmark
from slimline.flows.cli.flow_runner import run_benchmark
from slimline.flows.config.study import load_study


def run() -> None:
    assert not run_benchmark(load_study(sys.argv[1])).failed


def main() -> None:
    slimline.flows.benchmark.show_run = lambda *_: None  # pictures of many tables are not what this is about
    context = multiprocessing.get_context("fork")  # importing everything in each would take longer than the test
    processes = [context.Process(target=run) for _ in range(int(sys.argv[2]))]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert {process.exitcode for process in processes} == {0}


if __name__ == "__main__":  # the processes that read the data import this module
    main()
