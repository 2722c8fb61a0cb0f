"""Query a metrics store, and print every module that was imported for it."""

import json
import sys

from slimline.storage.artifacts.store import ArtifactStore
from slimline.storage.metrics.store import MetricsStore

assert ArtifactStore
MetricsStore(sys.argv[1]).query("FROM result_table")
print(json.dumps(sorted(sys.modules)))
