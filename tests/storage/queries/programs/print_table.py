"""Render a metrics store's newest run as text, and print every module that was imported for it."""

import json
import sys

from slimline.dashboards.reports.formats import render
from slimline.storage.metrics.store import MetricsStore
from slimline.storage.queries.results import result_rows

assert render(result_rows(MetricsStore(sys.argv[1])), "text")
print(json.dumps(sorted(sys.modules)))
