"""Measure an order on a processor that claims to have no VNNI.

python measure_without_vnni.py ORDER.json
"""

import sys
from pathlib import Path

from slimline.flows.measure import measure
from slimline.flows.run import Order
from slimline.tasks.measurement import saturation

if __name__ == "__main__":
    saturation.usable_weight_bits = lambda: 7
    measure(Order.model_validate_json(Path(sys.argv[1]).read_text("utf8")))
