"""Append predictions of a run to a metrics store, three rows at a time, and print the number of each append."""

import sys

from slimline.storage.metrics.rows import PredictionRow
from slimline.storage.metrics.store import MetricsStore

store, run, appends = MetricsStore(sys.argv[1]), sys.argv[2], int(sys.argv[3])
for number in range(appends):
    rows = [PredictionRow(run=run, variant="v", sample=number * 3 + index, es=index) for index in range(3)]
    store.append(rows)
    print(number, flush=True)
