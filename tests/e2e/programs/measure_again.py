"""Give the order of a benchmark again, to a run that was killed in its second round: measure_again.py STUDY.

Prints the run's identifier; the killed one is called "killed".
"""

import sys
from unittest.mock import patch

import slimline.flows.benchmark
from slimline.flows.benchmark import benchmark
from slimline.flows.config.study import load_study
from slimline.flows.measure import measure
from slimline.flows.run import Order
from slimline.storage.queries.resume import stored_rows
from slimline.storage.stores import metrics_store


def main() -> None:
    orders: list[Order] = []
    with (
        patch.object(slimline.flows.benchmark, "measure_everywhere", lambda order, hosts: orders.append(order)),
        patch.object(slimline.flows.benchmark, "result_rows", lambda *_, **__: []),
        patch.object(slimline.flows.benchmark, "show_run", lambda *_: None),
    ):
        benchmark(load_study(sys.argv[1]).with_options(rounds=2))
    order, metrics = orders[0], metrics_store()
    measure(order)
    rounds = stored_rows(metrics, order.run, order.table_host).rounds
    metrics.append([row.model_copy(update={"run": "killed"}) for row in rounds if row.round == 1])
    for _ in range(2):
        measure(order.model_copy(update={"run": "killed"}))
    print(order.run)


if __name__ == "__main__":  # the processes that read the data import this module
    main()
